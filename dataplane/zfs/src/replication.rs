//! What to do so that one tree of datasets has what another has, and what may go after that. Pure.
//!
//! Both trees come from one listing each ([`Listing`]); [`plan`] compares them by GUID and says, dataset by dataset, which
//! streams bring the target up to date. Nothing that it plans destroys or rolls back: a target that went another way is
//! reported, or what the source has is received beside it. [`expired`] says which snapshots a retention [`Grid`] lets go,
//! [`Schedule`] when to look again, and [`Limits`] how fast bytes may flow at which time of day.
//!
//! It knows no processes, no clock and no network: listings and times are arguments. Start reading at [`plan`].

mod limits;
mod listing;
mod pattern;
mod plan;
mod retention;
mod schedule;
mod span;
mod tree;

pub use limits::Limits;
pub use listing::{BadListing, Listing, properties};
pub use pattern::{Pattern, Selection};
pub use plan::{
    Base, Blocked, DatasetPlan, Divergence, Encrypted, History, Mark, Point, Policy, Step, Verdict, plan,
};
pub use retention::{Expired, Grid, expired};
pub use schedule::{Schedule, Times};
pub use tree::{Bookmark, Dataset, HalfReceived, Origin, Snapshot, Tree};

/// A text that was typed and cannot be read: a pattern, a grid, a schedule, limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {why}")]
pub struct Invalid {
    /// The noun.
    pub what: &'static str,
    /// As it was typed.
    pub text: String,
    /// Why, and how to write it.
    pub why: String,
}

#[cfg(test)]
mod tests;
