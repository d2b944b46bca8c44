//! Authenticated links between nodes, over QUIC or TCP, and the identities that make them so.
//!
//! [`identity`] is the hub's CA and the certificates that it gives to nodes; [`token`] is what a person carries to a new
//! node so that it finds and believes its hub. [`Endpoint`] makes [`Link`]s: mutually authenticated, with framed control
//! streams in both directions, and chunks sorted by the transfer that they belong to.
//!
//! It does not know what a snapshot, a ticket or a chunk's header is, and decides nothing about who may do what: it
//! says who the [`Peer`] is. Start reading at [`link`], then `quic` and `tcp`, its two kinds.

mod chunks;
mod congestion;
mod control;
pub mod endpoint;
mod error;
pub mod framing;
pub mod identity;
pub mod link;
mod quic;
mod routes;
mod tcp;
mod threads;
mod tls;
pub mod token;

pub use chunks::{ChunkReader, HEAD_BYTES};
pub use congestion::LONG_ROUND_TRIP;
pub use control::{Control, ControlReceiver, ControlSender};
pub use endpoint::{Arriving, Endpoint, Transports};
pub use error::Error;
pub use identity::{Ca, Identity, NodeKey, Peer, Role, Trust, fetch_ca};
pub use link::{Driver, Link, Transport};
pub use routes::Chunks;
pub use threads::apart;
pub use token::RegistrationToken;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;
