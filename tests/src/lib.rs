//! A whole Dotstream for tests: real `ds` processes, a real ZFS pool in a file, real Docker.
//!
//! Nothing is mocked. [`System`] starts a hub with its store; [`System::runner`] adds runners, each with a dataset of its own;
//! [`System::ds`] is the user at the command line. All of it is gone when the values are dropped, also after a panic: processes
//! are ended by the id they were started with, containers by their runner's label, pools by name.
//!
//! It does not know the HTTP API: what a person cannot see through `ds` is not asserted here.

pub mod cloud;
mod dice;
pub mod mover;
pub mod pool;
pub mod postgres;
pub mod process;
pub mod relay;
pub mod system;
pub mod trees;
pub mod worker;

pub use cloud::Cloud;
pub use dice::{Dice, number};
pub use pool::{FilePool, run};
pub use postgres::Postgres;
pub use process::{Daemon, eventually, memory_bytes};
pub use relay::{Relay, Weather};
pub use system::{Answer, System, TestRunner, free_tcp_port, image, task_image};
