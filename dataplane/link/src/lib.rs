//! Authenticated QUIC connections between nodes, and the identities that make it so.
//!
//! [`identity`] is the hub's CA and the certificates that it gives to nodes; [`token`] is what a person carries to a new
//! node so that it finds and believes its hub. [`Endpoint`] makes [`Link`]s: mutually authenticated connections with
//! framed control streams in both directions and one unidirectional stream for each chunk of a transfer, sorted by the
//! transfer that they belong to.
//!
//! It does not know what a snapshot, a ticket or a chunk's header is, and decides nothing about who may do what: it
//! says who the [`Peer`] is. Start reading at [`link`].

pub mod endpoint;
mod error;
pub mod framing;
pub mod identity;
pub mod link;
mod routes;
mod threads;
mod tls;
pub mod token;

pub use endpoint::{Arriving, Endpoint};
pub use error::Error;
pub use identity::{Ca, Identity, NodeKey, Peer, Role, Trust, fetch_ca};
pub use link::{ChunkReader, ChunkWriter, Control, ControlReceiver, ControlSender, Link};
pub use routes::Chunks;
pub use token::RegistrationToken;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;
