//! The nouns of Dotstream and the rules between them.
//!
//! Pure: no I/O, no clock, no randomness, no database. What is here can be tested with values alone: typed ids, the
//! state machine of a task, the parser of run records, the scheduler, and the rules of provenance.
//!
//! Start reading at [`task`], then [`record`].

pub mod api;
pub mod ids;
pub mod provenance;
pub mod record;
pub mod schedule;
pub mod task;
mod tree_name;

pub use ids::{CommitId, NodeId, ProjectId, RunId, RunnerId, SnapshotId, TaskId, UserId, VolumeId};
pub use tree_name::{InvalidTreeName, TreeName};
