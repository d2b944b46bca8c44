//! Moves snapshots between pools, and is the store.
//!
//! A transfer is driven by [`pull`] or [`push`] at the end that opens it and by the [`Store`] at the other; both use the
//! same two drivers, `sending` and `receiving`: `zfs send` → blockio → chunks on a link → blockio → `zfs receive`. The
//! store lets a peer move what its [`ticket`] says, answers with a [`receipt`], and does for the hub what has to happen
//! where the data is: files of a snapshot, imports, advancing a volume's main line. The hub's end of that is
//! [`StoreClient`].
//!
//! [`tree`] keeps whole trees of datasets in step, under names of their own: what `ds sync` does.
//!
//! It does not know users, projects, tasks or commits, and asks no database: a ticket is all the permission there is.
//! Start reading at `client`, then `receiving`, then [`store`].

mod client;
mod clock;
mod compression;
mod error;
mod exchange;
mod joins;
mod metrics;
mod outset;
mod pipe;
mod plans;
pub mod receipt;
mod receiving;
mod sending;
mod spool;
mod stall;
pub mod store;
mod store_client;
pub mod ticket;
pub mod tree;
mod trial;

pub use client::{Progress, pull, push};
pub use error::{Error, ErrorKind, RequestErrorKind};
pub use pipe::{receive_pipe, send_pipe};
pub use store::{Store, StoreConfig};
pub use store_client::{FileContent, Imported, StoreClient};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;
