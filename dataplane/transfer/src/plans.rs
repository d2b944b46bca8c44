//! What a stream is made of, in the words of ZFS and in those of the wire, and what both ends agree on. Pure.

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_link::Peer;
use ds_proto::v1;
use ds_zfs::{
    Base, Encryption, Features, Have, NoMode, SendPlan, Snapshot, SnapshotGuid, StreamKind, StreamMode,
    StreamSupport,
};

use crate::{Error, Result};

/// Snapshots that one end tells the other: as many as fit a control message. The newest come last in a listing.
const MAX_HAVE: usize = 10_000;

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With its first record.
    Anew,
    /// Where an earlier receive of it broke off.
    Resumed,
}

/// What the receiving end has of a volume, and what its ZFS can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reception {
    pub(crate) have: Vec<Have>,
    pub(crate) streams: StreamSupport,
    /// Of the very snapshot that is to come, if a part of it is there.
    pub(crate) token: Option<String>,
}

impl Reception {
    pub(crate) fn to_proto(&self) -> v1::Reception {
        let newest = &self.have[self.have.len().saturating_sub(MAX_HAVE)..];
        let StreamSupport { version, large_blocks, compressed, embedded, raw } = self.streams.clone();
        v1::Reception {
            have: newest.iter().map(have_to_proto).collect(),
            streams: Some(v1::StreamSupport { version, large_blocks, compressed, embedded, raw }),
            resume_token: self.token.clone().unwrap_or_default(),
        }
    }

    /// An end that says nothing has nothing, and can do what every ZFS can.
    pub(crate) fn from_proto(peer: Peer, said: Option<&v1::Reception>) -> Result<Self> {
        let Some(said) = said else { return Ok(Self::default()) };
        let have = said.have.iter().map(|have| have_from_proto(peer, have)).collect::<Result<_>>()?;
        let streams = said.streams.as_ref().map_or_else(StreamSupport::default, |streams| StreamSupport {
            version: streams.version.clone(),
            large_blocks: streams.large_blocks,
            compressed: streams.compressed,
            embedded: streams.embedded,
            raw: streams.raw,
        });
        let token = Some(said.resume_token.clone()).filter(|token| !token.is_empty());
        Ok(Self { have, streams, token })
    }

    fn mode_of(&self, base: Base) -> Option<StreamMode> {
        let found = self.have.iter().find(|have| (have.snapshot, have.guid) == (base.snapshot, base.guid));
        found.and_then(|have| have.mode)
    }
}

/// The planned stream in the mode that both ends can do and that its chain, where it continues one, goes on in.
///
/// `source` is the sender's: whether the volume is encrypted, and how it came there itself.
pub(crate) fn agree(
    plan: SendPlan,
    source: (Encryption, Option<StreamMode>),
    sender: &Features,
    receiver: &Reception,
) -> std::result::Result<SendPlan, NoMode> {
    let (encryption, ours) = source;
    let negotiate = |chain| StreamMode::negotiate(encryption, chain, sender, &receiver.streams);
    let mode = match (plan.kind.base(), ours) {
        // It may begin a chain in any mode. In our own, what becomes of it there can come back here.
        (None, Some(ours)) => negotiate(Some(ours)).or_else(|_| negotiate(None))?,
        (None, None) => negotiate(None)?,
        (Some(base), ours) => match (ours, receiver.mode_of(base)) {
            (Some(sender), Some(receiver)) if sender != receiver => {
                return Err(NoMode::Diverged { sender, receiver });
            }
            (ours, theirs) => negotiate(ours.or(theirs))?,
        },
    };
    Ok(plan.with_mode(mode))
}

pub(crate) fn to_proto(plan: &SendPlan, start: Start, estimate: Option<u64>) -> v1::Plan {
    let base = plan.kind.base();
    v1::Plan {
        guid: plan.guid.0,
        base: base.map(|base| base.snapshot.to_bytes()).unwrap_or_default(),
        base_guid: base.map_or(0, |base| base.guid.0),
        clone: matches!(plan.kind, StreamKind::Clone(_)),
        estimate_bytes: estimate.unwrap_or(0),
        mode: plan.mode.to_string(),
        resumed: start == Start::Resumed,
    }
}

/// What the other end says is coming.
pub(crate) fn from_proto(
    peer: Peer,
    (volume, snapshot): (VolumeId, SnapshotId),
    plan: &v1::Plan,
) -> Result<(SendPlan, Start)> {
    let kind = if plan.base.is_empty() {
        StreamKind::Full
    } else {
        let base =
            SnapshotId::from_bytes(&plan.base).map_err(|_| Error::protocol(peer, "a base that is no id"))?;
        let base = Base { snapshot: base, guid: SnapshotGuid(plan.base_guid) };
        if plan.clone { StreamKind::Clone(base) } else { StreamKind::Incremental(base) }
    };
    let mode = mode_from_proto(peer, &plan.mode)?.unwrap_or(StreamMode::PLAIN);
    let start = if plan.resumed { Start::Resumed } else { Start::Anew };
    Ok((SendPlan { volume, snapshot, guid: SnapshotGuid(plan.guid), kind, mode }, start))
}

fn have_to_proto(have: &Have) -> v1::Have {
    v1::Have {
        snapshot: have.snapshot.to_bytes(),
        guid: have.guid.0,
        tip: have.tip,
        mode: have.mode.map(|mode| mode.to_string()).unwrap_or_default(),
    }
}

fn have_from_proto(peer: Peer, have: &v1::Have) -> Result<Have> {
    let snapshot = SnapshotId::from_bytes(&have.snapshot)
        .map_err(|_| Error::protocol(peer, "a snapshot that is no id"))?;
    let mode = mode_from_proto(peer, &have.mode)?;
    Ok(Have { snapshot, guid: SnapshotGuid(have.guid), tip: have.tip, mode })
}

fn mode_from_proto(peer: Peer, mode: &str) -> Result<Option<StreamMode>> {
    if mode.is_empty() {
        return Ok(None);
    }
    mode.parse().map(Some).map_err(|invalid: ds_zfs::InvalidMode| Error::protocol(peer, invalid.to_string()))
}

/// Says that `base` is here, the very same.
pub(crate) fn require_base(ours: &[Snapshot], base: Option<Base>) -> Result<()> {
    match base {
        Some(base) if !ours.iter().any(|s| (s.id, s.guid) == (base.snapshot, base.guid)) => {
            Err(Error::NoBase(base.snapshot))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
