//! The adapter against a real ZFS: pools in files, thrown away after each test.
#![expect(clippy::unwrap_used, reason = "clippy knows no helpers of tests in a tests folder")]

mod keeping;
mod modes;
mod resume;
mod streams;
mod support;
mod trees;
mod volumes;
