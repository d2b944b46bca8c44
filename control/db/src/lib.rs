//! The hub's metadata in SQLite or PostgreSQL, behind the same queries.
//!
//! [`Db`] has one method for each thing that the hub does to its metadata; a method that writes is one transaction. Ids and
//! times are chosen by the caller, so that asking twice does once. It deliberately knows no HTTP, no nodes and no rules
//! about who may do what, except that a lookup on behalf of a person finds only what that person may see.
//!
//! Start reading at [`Db::connect`], then [`FinishTask`], the transaction that everything else leads up to.

mod commits;
mod datasets;
mod error;
mod finish;
mod logs;
mod open;
mod projects;
mod recording;
mod rows;
mod run_page;
mod run_query;
mod run_write;
mod runners;
mod runs;
mod settings;
mod tasks;
mod users;
mod walk;

pub use commits::{Head, NewCommit};
pub use datasets::{NewDataset, dataset_place};
pub use error::{Error, Result};
pub use finish::{Committed, FinishTask, Finished};
pub use open::Db;
pub use projects::{NewProject, ProjectRow};
pub use run_query::{Filter, Kind, Op, RunQuery, Sort};
pub use runners::{NewRunner, RunnerHello, RunnerRow};
pub use tasks::{Cancelled, NewTask, Noted, TaskEnd, TaskRow};
pub use users::{Credentials, TokenHash};
pub use walk::PathChange;
