//! The first record of a ZFS stream (`DRR_BEGIN`), which says what the stream will do. Pure.
//!
//! A stream comes from another machine, and `zfs receive` does what it says: a *compound* one (`zfs send -p`, `-R`) brings
//! properties along, such as a mountpoint anywhere on the machine. So nothing of a stream reaches ZFS before its first record
//! shows that it is one plain stream of the planned snapshot.

use crate::{Implementation, SendPlan, SnapshotGuid};

/// The length of a `DRR_BEGIN` record: so much of a stream must be here before it is let in.
pub const BEGIN_BYTES: usize = 312;

const MAGIC: u64 = 0x2_f5ba_cbac;
/// `DRR_BEGIN` among the types of records.
const BEGIN: u32 = 0;
/// `DMU_SUBSTREAM` among the types of headers: a stream of one snapshot, with nothing around it.
const SUBSTREAM: u64 = 1;
/// `DMU_OST_ZFS` among the types of objects: a filesystem.
const FILESYSTEM: u32 = 2;
/// The lowest bits of the version are the header's type, the others its features.
const HEADER_TYPE_BITS: u32 = 2;

const SA_SPILL: u64 = 1 << 2;
const LARGE_DNODE: u64 = 1 << 23;
const LONG_NAMES: u64 = 1 << 28;

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
    /// It uses what this machine's ZFS does not know.
    #[error("it needs features of ZFS that this machine does not have (bits {0:#x})")]
    Features(u64),
}

/// What a stream says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begin {
    to: SnapshotGuid,
    /// 0 for a full stream.
    from: SnapshotGuid,
    features: u64,
}

/// Checks that a stream that begins like this is the planned one, and nothing more.
pub(crate) fn check(
    beginning: &[u8; BEGIN_BYTES],
    plan: &SendPlan,
    here: Implementation,
) -> Result<(), BadBeginning> {
    let begin = Begin::parse(beginning)?;
    let base = plan.kind.base().map_or(SnapshotGuid(0), |base| base.guid);
    if begin.to != plan.guid {
        return Err(BadBeginning::Snapshot { expected: plan.guid, found: begin.to });
    }
    if begin.from != base {
        return Err(BadBeginning::Base { expected: base, found: begin.from });
    }
    match begin.features & !known_features(here) {
        0 => Ok(()),
        unknown => Err(BadBeginning::Features(unknown)),
    }
}

/// What a stream may need that was sent with plain flags and can be received here.
fn known_features(here: Implementation) -> u64 {
    match here {
        Implementation::ZfsFuse => SA_SPILL,
        Implementation::OpenZfs => SA_SPILL | LARGE_DNODE | LONG_NAMES,
    }
}

impl Begin {
    /// Whoever sends writes in its own byte order.
    fn parse(record: &[u8; BEGIN_BYTES]) -> Result<Self, BadBeginning> {
        let fields = Fields { record, big: u64_at(record, 8, true) == MAGIC };
        if fields.u64(8) != MAGIC || fields.u32(0) != BEGIN {
            return Err(BadBeginning::NoStream);
        }
        let version = fields.u64(16);
        // A payload holds what plain flags never make: the properties of an encrypted or resumed stream.
        if version & ((1 << HEADER_TYPE_BITS) - 1) != SUBSTREAM || fields.u32(4) != 0 {
            return Err(BadBeginning::Compound);
        }
        if fields.u32(32) != FILESYSTEM {
            return Err(BadBeginning::NoFilesystem);
        }
        Ok(Self {
            to: SnapshotGuid(fields.u64(40)),
            from: SnapshotGuid(fields.u64(48)),
            features: version >> HEADER_TYPE_BITS,
        })
    }
}

struct Fields<'a> {
    record: &'a [u8; BEGIN_BYTES],
    big: bool,
}

impl Fields<'_> {
    fn u64(&self, at: usize) -> u64 {
        u64_at(self.record, at, self.big)
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = *self.record[at..].first_chunk().expect("the offset is within the record");
        if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

fn u64_at(record: &[u8; BEGIN_BYTES], at: usize, big: bool) -> u64 {
    let bytes = *record[at..].first_chunk().expect("the offset is within the record");
    if big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }
}

#[cfg(test)]
mod tests {
    use ds_domain::ids::{SnapshotId, VolumeId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{Base, StreamKind};

    fn plan(kind: StreamKind) -> SendPlan {
        let (volume, snapshot) = (VolumeId(Uuid::from_u128(1)), SnapshotId(Uuid::from_u128(2)));
        SendPlan { volume, snapshot, guid: SnapshotGuid(70), kind }
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
        check(record, &plan(kind), Implementation::ZfsFuse)
    }

    #[test]
    fn the_planned_stream_is_let_in_in_either_byte_order() {
        for big in [false, true] {
            assert_eq!(judge(&record(big, 1, 0), StreamKind::Full), Ok(()));
            assert_eq!(judge(&record(big, 1 | SA_SPILL << 2, 9), from(9)), Ok(()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for big in [false, true] {
            let full = |version| judge(&record(big, version, 0), StreamKind::Full);
            for header_type in [0, 2, 3] {
                assert_eq!(full(header_type), Err(BadBeginning::Compound));
            }
            assert_eq!(full(1 | 1 << 24 << 2), Err(BadBeginning::Features(1 << 24)));
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
