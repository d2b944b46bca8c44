//! The adapter, and what it builds on, against the real OpenZFS. Where another ZFS answers, each case is skipped and says so;
//! `tests/openzfs/suite` runs them in a machine that has it.
//!
//! Modules that say "by hand" drive `zfs` itself: they pin down what OpenZFS does where this crate, or who uses it, relies on it.
#![expect(clippy::unwrap_used, reason = "clippy knows no helpers of tests in a tests folder")]

mod bookmarks;
mod contents;
mod damage;
mod divergence;
mod encryption;
mod fixture;
mod flags;
mod holds;
mod limits;
mod lines;
mod modes;
mod resume;
mod scale;
#[path = "../it/support.rs"]
#[expect(dead_code, reason = "the other suite uses the rest")]
mod support;
