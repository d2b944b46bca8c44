//! Trees of datasets that are kept in step between two nodes: what `ds sync` does.
//!
//! One end runs [`Sync`]; the other is a [`crate::Store`], asked through [`FarTree`] with a ticket for the tree.
//! Both list what they have, [`ds_zfs::replication::plan`] says which streams are missing, and each of them is a
//! transfer as any other, with lanes and all, several datasets at a time. Nothing is remembered in between: the
//! same call after a crash goes on with what is missing then.

mod far;
mod jobs;
mod metrics;
mod moving;
pub(crate) mod pump;
mod sync;
pub(crate) mod words;

pub use far::{FarTree, Listed};
pub use pump::Pace;
pub use sync::{DatasetReport, Event, Missing, Planned, Report, Route, Sync, TargetReport, Task, Watch};
