//! Transfers between pools of the real OpenZFS: what survives the death of either process, and in which mode a chain
//! goes on. Where another ZFS answers, each case is skipped and says so; `tests/openzfs/suite` runs them in a machine
//! that has it.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod chains;
mod fixture;
mod leftovers;
mod other_process;
mod resume;
#[path = "../store/support.rs"]
#[expect(dead_code, reason = "the other suite uses the rest")]
mod support;
