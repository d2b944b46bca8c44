//! A stream's first record (`DRR_BEGIN`), which says what the stream will do, and which of them are let in.

use super::{
    features::StreamFeatures,
    record::{ByteOrder, Fields, RECORD_BYTES, checked_payload},
};
use crate::{Implementation, SendPlan, SnapshotGuid, StreamMode};

/// The length of a `DRR_BEGIN` record: so much of a stream must be here before it is let in.
pub const BEGIN_BYTES: usize = RECORD_BYTES;

const MAGIC: u64 = 0x2_f5ba_cbac;
/// `DRR_BEGIN` among the types of records.
const BEGIN: u32 = 0;
/// `DMU_SUBSTREAM` among the types of headers: a stream of one snapshot, with nothing around it.
const SUBSTREAM: u64 = 1;
/// `DMU_OST_ZFS` among the types of objects: a filesystem.
const FILESYSTEM: u32 = 2;
/// The lowest bits of the version are the header's type, the others its features.
const HEADER_TYPE_BITS: u32 = 2;

/// Streams that carry more about themselves than fits into a record: keys, where to go on, what was left out. Others have no
/// payload, unless it is a package's list of properties.
const WITH_PAYLOAD: [StreamFeatures; 3] =
    [StreamFeatures::RAW, StreamFeatures::RESUMING, StreamFeatures::REDACTED];

/// Why a stream is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBeginning {
    /// Too short, or something else.
    #[error("it does not begin as a stream of `zfs send` does")]
    NoStream,
    /// It brings more than a snapshot.
    #[error("it brings more than one snapshot (`zfs send -p` or `-R` makes such streams, with properties)")]
    Compound,
    /// A disk or something else that holds no files.
    #[error("it brings no filesystem")]
    NoFilesystem,
    /// It brings another snapshot than planned.
    #[error("it brings the snapshot with GUID {found}, the plan said {expected}")]
    Snapshot {
        /// The plan's.
        expected: SnapshotGuid,
        /// The stream's.
        found: SnapshotGuid,
    },
    /// It starts from another snapshot than planned.
    #[error("it starts from the snapshot with GUID {found}, the plan said {expected} (0: from nothing)")]
    Base {
        /// The plan's.
        expected: SnapshotGuid,
        /// The stream's.
        found: SnapshotGuid,
    },
    /// It goes on where another broke off though it was to start anew, or the other way round.
    #[error("it does not start where the receiver is: at its beginning, or where an earlier one broke off")]
    Start,
    /// It uses what this machine's ZFS does not know.
    #[error("it needs what this machine's ZFS does not have, or the plan does not allow: {0}")]
    Features(StreamFeatures),
}

/// What a stream says of itself in its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamBegin {
    /// The snapshot that it brings.
    pub to: SnapshotGuid,
    /// The snapshot that it starts from; `None` for a full stream.
    pub from: Option<SnapshotGuid>,
    /// What its receiver has to know.
    pub features: StreamFeatures,
    /// The length of what follows the record.
    pub(super) payload_bytes: u64,
}

/// Where a stream starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Anew,
    /// Where an earlier one broke off.
    Resumed,
}

/// What a stream has to say of itself to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The snapshot that it brings.
    pub(crate) to: SnapshotGuid,
    /// The snapshot that it starts from; `None` for a full stream.
    pub(crate) from: Option<SnapshotGuid>,
    /// How its blocks travel.
    pub(crate) mode: StreamMode,
}

impl From<&SendPlan> for Expected {
    fn from(plan: &SendPlan) -> Self {
        Self { to: plan.guid, from: plan.kind.base().map(|base| base.guid), mode: plan.mode }
    }
}

/// Checks that a stream that begins like this is the expected one, and nothing more.
pub(crate) fn check(
    begin: &StreamBegin,
    expected: &Expected,
    start: Start,
    here: Implementation,
) -> Result<(), BadBeginning> {
    let resumes = begin.features.intersects(StreamFeatures::RESUMING);
    if resumes != (start == Start::Resumed) {
        return Err(BadBeginning::Start);
    }
    if begin.to != expected.to {
        return Err(BadBeginning::Snapshot { expected: expected.to, found: begin.to });
    }
    if begin.from != expected.from {
        let [expected, found] = [expected.from, begin.from].map(|guid| guid.unwrap_or(SnapshotGuid(0)));
        return Err(BadBeginning::Base { expected, found });
    }
    match begin.features.without(expected.mode.stream_features(here) | StreamFeatures::RESUMING) {
        StreamFeatures::NONE => Ok(()),
        unknown => Err(BadBeginning::Features(unknown)),
    }
}

impl StreamBegin {
    /// Whoever sends writes in its own byte order.
    pub(super) fn parse(record: &[u8; BEGIN_BYTES]) -> Result<(Self, ByteOrder), BadBeginning> {
        let orders = [ByteOrder::Little, ByteOrder::Big];
        let order = orders.into_iter().find(|order| Fields::new(record, *order).u64(8) == MAGIC);
        let order = order.ok_or(BadBeginning::NoStream)?;
        let fields = Fields::new(record, order);
        if fields.u32(0) != BEGIN {
            return Err(BadBeginning::NoStream);
        }
        let version = fields.u64(16);
        let features = StreamFeatures(version >> HEADER_TYPE_BITS);
        let payload_bytes = u64::from(fields.u32(4));
        let may_have_payload = WITH_PAYLOAD.iter().any(|feature| features.intersects(*feature));
        if version & ((1 << HEADER_TYPE_BITS) - 1) != SUBSTREAM || (payload_bytes > 0 && !may_have_payload) {
            return Err(BadBeginning::Compound);
        }
        checked_payload(payload_bytes).map_err(|_| BadBeginning::NoStream)?;
        if fields.u32(32) != FILESYSTEM {
            return Err(BadBeginning::NoFilesystem);
        }
        let from = Some(fields.u64(48)).filter(|guid| *guid != 0).map(SnapshotGuid);
        Ok((Self { to: SnapshotGuid(fields.u64(40)), from, features, payload_bytes }, order))
    }
}

#[cfg(test)]
mod tests {
    use ds_domain::ids::{SnapshotId, VolumeId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{Base, SendFlags, StreamKind};

    fn plan(kind: StreamKind) -> Expected {
        let (volume, snapshot) = (VolumeId(Uuid::from_u128(1)), SnapshotId(Uuid::from_u128(2)));
        let mode = StreamMode::PLAIN;
        (&SendPlan { volume, snapshot, guid: SnapshotGuid(70), kind, mode }).into()
    }

    fn from(guid: u64) -> StreamKind {
        StreamKind::Clone(Base { snapshot: SnapshotId(Uuid::from_u128(3)), guid: SnapshotGuid(guid) })
    }

    /// A record of one plain stream, with `version` as its type and features.
    fn record(big: bool, version: u64, from: u64) -> [u8; BEGIN_BYTES] {
        let mut record = [0; BEGIN_BYTES];
        let mut put = |at: usize, value: u64| {
            let bytes = if big { value.to_be_bytes() } else { value.to_le_bytes() };
            record[at..at + 8].copy_from_slice(&bytes);
        };
        put(8, MAGIC);
        put(16, version);
        put(40, 70);
        put(48, from);
        record[if big { 35 } else { 32 }] = 2;
        record
    }

    fn judge(record: &[u8; BEGIN_BYTES], kind: StreamKind) -> Result<(), BadBeginning> {
        check(&StreamBegin::parse(record)?.0, &plan(kind), Start::Anew, Implementation::ZfsFuse)
    }

    #[test]
    fn the_planned_stream_is_let_in_in_either_byte_order() {
        for big in [false, true] {
            assert_eq!(judge(&record(big, 1, 0), StreamKind::Full), Ok(()));
            assert_eq!(judge(&record(big, 1 | 1 << 4, 9), from(9)), Ok(()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for big in [false, true] {
            let full = |version| judge(&record(big, version, 0), StreamKind::Full);
            for header_type in [0, 2, 3] {
                assert_eq!(full(header_type), Err(BadBeginning::Compound));
            }
            assert_eq!(full(1 | 1 << 24 << 2), Err(BadBeginning::Features(StreamFeatures::RAW)));
            let other = judge(&record(big, 1, 8), from(9));
            assert!(matches!(other, Err(BadBeginning::Base { found: SnapshotGuid(8), .. })));
            let whole = judge(&record(big, 1, 0), from(9));
            assert!(matches!(whole, Err(BadBeginning::Base { found: SnapshotGuid(0), .. })));
        }
        let mut payload = record(false, 1, 0);
        payload[4] = 8;
        assert_eq!(judge(&payload, StreamKind::Full), Err(BadBeginning::Compound));
        let mut disk = record(false, 1, 0);
        disk[32] = 3;
        assert_eq!(judge(&disk, StreamKind::Full), Err(BadBeginning::NoFilesystem));
        let mut another = record(false, 1, 0);
        another[40] = 71;
        assert!(matches!(judge(&another, StreamKind::Full), Err(BadBeginning::Snapshot { .. })));
        let mut end = record(false, 1, 0);
        end[0] = 5;
        assert_eq!(judge(&end, StreamKind::Full), Err(BadBeginning::NoStream));
        assert_eq!(judge(&[0; BEGIN_BYTES], StreamKind::Full), Err(BadBeginning::NoStream));
    }

    #[test]
    fn a_resumed_stream_is_let_in_only_where_one_broke_off() {
        let resuming = StreamBegin::parse(&record(false, 1 | 1 << 22, 0)).unwrap().0;
        let anew = StreamBegin::parse(&record(false, 1, 0)).unwrap().0;
        let judge = |begin: &StreamBegin, start| {
            check(begin, &plan(StreamKind::Full), start, Implementation::OpenZfs)
        };
        assert_eq!((judge(&resuming, Start::Resumed), judge(&anew, Start::Anew)), (Ok(()), Ok(())));
        for (begin, start) in [(resuming, Start::Anew), (anew, Start::Resumed)] {
            assert_eq!(judge(&begin, start), Err(BadBeginning::Start));
        }
    }

    #[test]
    fn a_stream_needs_no_more_than_its_mode_allows() {
        let judge = |bits: u64, mode| {
            let begin = StreamBegin::parse(&record(false, 1 | bits << 2, 0))?.0;
            check(&begin, &Expected { mode, ..plan(StreamKind::Full) }, Start::Anew, Implementation::OpenZfs)
        };
        let large = StreamMode::Decrypted(SendFlags { large_blocks: true, ..SendFlags::default() });
        let compressed = StreamMode::Decrypted(SendFlags { compressed: true, ..SendFlags::default() });
        for (bits, mode) in
            [(1 << 19, large), (1 << 22 | 1 << 17, compressed), (1 << 24 | 1 << 22, StreamMode::Raw)]
        {
            assert_eq!(judge(bits, mode), Ok(()));
            let needed = StreamFeatures(bits);
            assert_eq!(judge(bits, StreamMode::PLAIN), Err(BadBeginning::Features(needed)));
        }
        assert!(judge(1 << 24, compressed).is_err() && judge(1 << 22, large).is_err());
    }

    proptest! {
        #[test]
        fn no_other_bytes_are_let_in(at in 0usize..56, bit in 0u8..8, big: bool) {
            let mut record = record(big, 1, 9);
            record[at] ^= 1 << bit;
            // The time of creation, the flags, and the one feature that is known.
            let free = (24..32).contains(&at) || (36..40).contains(&at) || (16..24).contains(&at);
            prop_assert!(free || judge(&record, from(9)).is_err());
            let _ = judge(&[at.to_le_bytes()[0]; BEGIN_BYTES], from(9));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), BEGIN_BYTES)) {
            let _ = judge(bytes.as_slice().first_chunk().unwrap(), StreamKind::Full);
        }
    }
}
