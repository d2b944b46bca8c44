//! Snapshots, clones, send and receive on OpenZFS or zfs-fuse.
//!
//! One dataset, the *root*, belongs to a node; [`Volumes`] is everything that may happen below it, and all names there are made
//! from typed ids ("What lies on a pool" in ARCHITECTURE.md). ZFS is driven through its own programs, with arguments that never
//! pass a shell; what this machine's ZFS can do is probed once ([`Features`]).
//!
//! It deliberately does not know of networks, tickets or commits: which snapshot goes where is decided by its callers. It never
//! rolls a snapshot back and never passes `-F` to a receive; and no byte of a stream reaches `zfs receive` before its first record
//! shows that it is the planned one.
//!
//! Start reading at `volumes.rs`; the decisions worth arguing about are pure: `plan.rs` (from which base a snapshot is sent),
//! `topology.rs` (what the next step of an advance is), `drr.rs` (what a stream says of itself, and which are let in) and
//! [`replication`] (how a tree of datasets is kept in step with another).

mod command;
mod drr;
mod error;
mod features;
mod manifest;
mod mode;
mod names;
mod plan;
mod pool;
pub mod replication;
mod resume;
mod stream;
mod target;
mod topology;
mod trees;
mod volumes;

pub use drr::{
    BEGIN_BYTES, BadBeginning, BadStream, Fault, StreamBegin, StreamFeatures, StreamProgress, StreamReader,
};
pub use error::{Error, Failure, Result};
pub use features::{Features, Implementation, StreamSupport};
pub use manifest::{Change, ChangeKind, EntryKind, Manifest, diff};
pub use mode::{Encryption, InvalidMode, MODE_PROPERTY, NoMode, SendFlags, StreamMode};
pub use plan::{Base, Have, SendPlan, StreamKind, plan_send, plan_send_from};
pub use pool::{create_file_pool, destroy_pool, import, pool_exists};
pub use resume::ResumeToken;
pub use stream::{Intake, ReceiveProcess, ReceiveProgress, Receiving, SendProcess, Sending};
pub use topology::{Origin, Snapshot};
pub use trees::LocalTree;
pub use volumes::{Bookmark, Guard, Partial, Volumes};

/// The GUID that ZFS gives a snapshot when it is taken, and that a received copy shares: equal GUIDs mean equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotGuid(pub u64);

impl std::fmt::Display for SnapshotGuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
