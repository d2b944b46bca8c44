//! ZFS streams, read in passing. Pure.
//!
//! A stream is a row of records (`dmu_replay_record`, "DRR") of 312 bytes, most of them followed by a payload whose length follows
//! from the record. [`StreamReader`] looks at the records as they fly by in pieces of any size, so that a stream is known by what it
//! says of itself, its progress is counted in what ZFS writes, and a damaged one is cut off before it reaches `zfs receive`. It
//! holds one record, and never a payload.
//!
//! A stream comes from another machine, and `zfs receive` does what it says: a *compound* one (`zfs send -p`, `-R`) brings
//! properties along, such as a mountpoint anywhere on the machine. So nothing of a stream reaches ZFS before its first record
//! shows that it is one stream of the planned snapshot, sent with the planned flags.
//!
//! The layout is that of OpenZFS's `include/sys/zfs_ioctl.h`; zfs-fuse's streams differ in that only their last record has a checksum.

mod begin;
mod fault;
mod features;
mod fletcher;
mod reader;
mod record;

pub use begin::{BEGIN_BYTES, BadBeginning, StreamBegin};
pub(crate) use begin::{Expected, Start, check};
pub use fault::{BadStream, Fault};
pub use features::StreamFeatures;
pub use reader::{StreamProgress, StreamReader};
