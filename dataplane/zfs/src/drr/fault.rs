//! What can be wrong with a stream, and where.

use crate::{BadBeginning, SnapshotGuid};

/// A stream that must not be received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream is bad at byte {offset}, in record {record}")]
pub struct BadStream {
    /// How many bytes of the stream come before what is wrong.
    pub offset: u64,
    /// The record that is wrong, or whose payload is; the first is 0.
    pub record: u64,
    /// What is wrong.
    #[source]
    pub fault: Fault,
}

/// What is wrong with a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin as it has to.
    #[error(transparent)]
    Beginning(#[from] BadBeginning),
    /// A second beginning: streams one after another, as in a package.
    #[error("a second stream begins within it")]
    SecondBeginning,
    /// A type of record that no ZFS writes.
    #[error("there is no record of type {0}")]
    UnknownRecord(u32),
    /// A payload that no ZFS writes.
    #[error("a payload of {0} bytes: at most 16 MiB, and a multiple of 4")]
    PayloadLength(u64),
    /// A record of another stream.
    #[error("the record belongs to the snapshot with GUID {found}, the stream to {expected}")]
    AnotherSnapshot {
        /// The first record's.
        expected: SnapshotGuid,
        /// This record's.
        found: SnapshotGuid,
    },
    /// What came before has been changed.
    #[error("the checksum does not match what came before: the stream was damaged on its way")]
    Checksum,
    /// Bytes behind its last record.
    #[error("it goes on behind its end")]
    BehindEnd,
    /// It stops before its last record.
    #[error("it stops before its end")]
    Incomplete,
}
