//! The store over loopback, on real pools in files: transfers, faults, and what the hub asks.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod faults;
mod lost_links;
mod path;
mod requests;
mod slow_links;
mod support;
mod transfers;
mod trees;
