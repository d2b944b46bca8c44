//! One record of a stream: its type, its snapshot, and how long its payload is.

use super::fault::Fault;
use crate::SnapshotGuid;

/// The length of every record.
pub(super) const RECORD_BYTES: usize = 312;
/// Where the checksum of all that comes before lies in every record but the first.
pub(super) const CHECKSUM_AT: usize = RECORD_BYTES - 32;
/// The largest block that ZFS knows (`SPA_MAXBLOCKSIZE`): no payload is longer.
pub(super) const MOST_PAYLOAD_BYTES: u64 = 16 << 20;

/// That of the machine that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    pub(super) fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
}

/// A record's bytes, read in the sender's order.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    record: &'a [u8; RECORD_BYTES],
    order: ByteOrder,
}

impl<'a> Fields<'a> {
    pub(super) fn new(record: &'a [u8; RECORD_BYTES], order: ByteOrder) -> Self {
        Self { record, order }
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.record[at]
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        self.order.u32(*self.record[at..].first_chunk().expect("the offset is within the record"))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        self.order.u64(*self.record[at..].first_chunk().expect("the offset is within the record"))
    }

    pub(super) fn checksum(&self, at: usize) -> [u64; 4] {
        std::array::from_fn(|word| self.u64(at + 8 * word))
    }
}

/// `drr_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Begin,
    Object,
    FreeObjects,
    Write,
    Free,
    End,
    WriteByReference,
    Spill,
    WriteEmbedded,
    ObjectRange,
    Redact,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Begin,
        Self::Object,
        Self::FreeObjects,
        Self::Write,
        Self::Free,
        Self::End,
        Self::WriteByReference,
        Self::Spill,
        Self::WriteEmbedded,
        Self::ObjectRange,
        Self::Redact,
    ];

    fn read(number: u32) -> Result<Self, Fault> {
        let index = usize::try_from(number).ok();
        index.and_then(|index| Self::ALL.get(index)).copied().ok_or(Fault::UnknownRecord(number))
    }
}

/// A record that is not a stream's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) guid: SnapshotGuid,
    /// The file or other object that it is about; none for the end.
    pub(super) object: Option<u64>,
    /// Of the file system, that it fills: more than the payload where that is compressed.
    pub(super) logical_bytes: u64,
    pub(super) payload_bytes: u64,
}

impl Record {
    pub(super) fn read(fields: Fields<'_>) -> Result<Self, Fault> {
        let kind = Kind::read(fields.u32(0))?;
        let (guid_at, logical_bytes, payload_bytes) = match kind {
            Kind::Begin => return Err(Fault::SecondBeginning),
            Kind::Object => (40, 0, bonus_bytes(fields)),
            Kind::Write => {
                let logical = fields.u64(32);
                // `drr_compressed_size` counts only where a compression is named, "off" among them (a raw block is never without).
                (40, logical, if fields.u8(50) == 0 { logical } else { fields.u64(96) })
            }
            Kind::Spill => {
                let (logical, stored) = (fields.u64(16), fields.u64(40));
                (24, logical, if stored == 0 { logical } else { stored })
            }
            Kind::WriteEmbedded => (32, fields.u64(24), u64::from(fields.u32(52)).next_multiple_of(8)),
            Kind::WriteByReference => (32, fields.u64(24), 0),
            Kind::Free | Kind::Redact => (32, 0, 0),
            Kind::FreeObjects | Kind::ObjectRange => (24, 0, 0),
            Kind::End => (40, 0, 0),
        };
        let object = match kind {
            // A range that is freed goes to the end of time; one of raw nodes is no object yet.
            Kind::End | Kind::FreeObjects | Kind::ObjectRange => None,
            _ => Some(fields.u64(8)),
        };
        let payload_bytes = checked_payload(payload_bytes)?;
        Ok(Self { kind, guid: SnapshotGuid(fields.u64(guid_at)), object, logical_bytes, payload_bytes })
    }
}

/// The length itself, if a payload may have it: whole words, and no more than a block.
pub(super) fn checked_payload(bytes: u64) -> Result<u64, Fault> {
    if bytes <= MOST_PAYLOAD_BYTES && bytes.is_multiple_of(4) {
        Ok(bytes)
    } else {
        Err(Fault::PayloadLength(bytes))
    }
}

fn bonus_bytes(fields: Fields<'_>) -> u64 {
    match fields.u32(36) {
        0 => u64::from(fields.u32(28)).next_multiple_of(8),
        raw => raw.into(),
    }
}
