//! What a stream starts from, in the words of ZFS and in those of the wire.

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_link::Peer;
use ds_proto::v1;
use ds_zfs::{Base, Have, SendPlan, Snapshot, SnapshotGuid, StreamKind, StreamMode};

use crate::{Error, Result};

/// Snapshots that one end tells the other: as many as fit a control message. The newest come last in a listing.
const MAX_HAVE: usize = 10_000;

pub(crate) fn to_proto(plan: &SendPlan, estimate: Option<u64>) -> v1::Plan {
    let base = plan.kind.base();
    v1::Plan {
        guid: plan.guid.0,
        base: base.map(|base| base.snapshot.to_bytes()).unwrap_or_default(),
        base_guid: base.map_or(0, |base| base.guid.0),
        clone: matches!(plan.kind, StreamKind::Clone(_)),
        estimate_bytes: estimate.unwrap_or(0),
    }
}

/// What the other end says is coming.
pub(crate) fn from_proto(
    peer: Peer,
    (volume, snapshot): (VolumeId, SnapshotId),
    plan: &v1::Plan,
) -> Result<SendPlan> {
    let kind = if plan.base.is_empty() {
        StreamKind::Full
    } else {
        let base =
            SnapshotId::from_bytes(&plan.base).map_err(|_| Error::protocol(peer, "a base that is no id"))?;
        let base = Base { snapshot: base, guid: SnapshotGuid(plan.base_guid) };
        if plan.clone { StreamKind::Clone(base) } else { StreamKind::Incremental(base) }
    };
    Ok(SendPlan { volume, snapshot, guid: SnapshotGuid(plan.guid), kind, mode: StreamMode::PLAIN })
}

pub(crate) fn have_to_proto(ours: &[Snapshot]) -> Vec<v1::Have> {
    let newest = &ours[ours.len().saturating_sub(MAX_HAVE)..];
    newest.iter().map(|s| v1::Have { snapshot: s.id.to_bytes(), guid: s.guid.0, tip: s.tip }).collect()
}

pub(crate) fn have_from_proto(peer: Peer, have: &[v1::Have]) -> Result<Vec<Have>> {
    have.iter()
        .map(|have| {
            let snapshot = SnapshotId::from_bytes(&have.snapshot)
                .map_err(|_| Error::protocol(peer, "a snapshot that is no id"))?;
            Ok(Have { snapshot, guid: SnapshotGuid(have.guid), tip: have.tip })
        })
        .collect()
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
