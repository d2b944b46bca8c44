//! What keeps a hub from starting or running.

use std::{net::SocketAddr, path::PathBuf};

/// Why the hub could not be built or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the state folder.
    #[error(
        "cannot {action} {}: check that the hub's user owns the state folder and that its disk is not full",
        path.display()
    )]
    State {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The CA, or a certificate from it.
    #[error("the hub's identity could not be made or read from {}", path.display())]
    Identity {
        /// The folder.
        path: PathBuf,
        /// What failed.
        #[source]
        source: ds_link::Error,
    },
    /// The key that signs tickets.
    #[error("the key that signs tickets could not be made or read from {}", path.display())]
    TicketKey {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: ds_transfer::ticket::KeyError,
    },
    /// The database.
    #[error("the hub's database failed")]
    Database(#[from] ds_db::Error),
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: is another hub running, or the address not this machine's?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The UDP endpoint from which the store is dialled.
    #[error("cannot open the link to the store")]
    StoreLink(#[source] ds_link::Error),
    /// The gRPC server.
    #[error("the server for nodes failed")]
    Nodes(#[source] tonic::transport::Error),
    /// The HTTP server.
    #[error("the HTTP server failed")]
    Http(#[source] std::io::Error),
}

/// An error and what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
