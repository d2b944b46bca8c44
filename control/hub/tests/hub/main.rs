//! The hub from outside: real HTTP, real gRPC, a real database in a file. Runners are scripted and say so; the
//! store is away, except in `with_store`, which runs a real one on a throw-away pool.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod fake_runner;
mod login;
mod nodes;
mod openapi;
mod provenance;
mod recording;
mod removal;
mod support;
mod tasks;
mod trees;
mod with_store;
