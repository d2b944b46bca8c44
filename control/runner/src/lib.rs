//! Executes tasks in containers on a clone of the workspace, and commits what they did.
//!
//! A runner dials out to its hub, and takes tasks over one stream ([`session`]). Each task is a state machine whose
//! stage lies in a journal on disk ([`task`], [`journal`]): whatever is killed, whenever, is done again. Stopping the
//! runner stops no command. Containers run on in Docker, and the next start finds them by their label.
//!
//! It does not know what a project, a user or a run is; it does not decide what runs where; it does not look into run
//! records. What lies on the pool is `ds-zfs`'s, how a snapshot travels `ds-transfer`'s.
//!
//! Start reading at [`runner`], then [`task`].

mod backoff;
mod checkout;
mod clock;
mod docker;
mod error;
mod hub;
mod journal;
mod logs;
mod machine;
mod metrics;
mod node;
mod register;
mod runner;
mod session;
mod spec;
mod task;
mod tasks;

pub use error::Error;
pub use register::register;
pub use runner::{Runner, RunnerConfig};
