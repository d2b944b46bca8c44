//! The transfer protocol as pure state machines: chunks, order, windows, resending, verification.
//!
//! A [`Sender`] takes the bytes of one stream and cuts them into chunks of [`CHUNK_BYTES`], each with a header and a
//! digest. Chunks travel in any order over any number of lanes. A [`Receiver`] puts them back in order within a window
//! that is bounded in bytes, and says how far they were written; that acknowledgement opens the sender's window again.
//! A [`Fin`] ends the stream and binds the number of bytes, the number of chunks, and their order.
//!
//! ```text
//! push ─▶ Sender ─ next_chunk(lane) ─▶ (lanes, any order) ─▶ Chunk::verify ─▶ Receiver::accept ─ next_bytes ─▶ sink
//!            ▲                                                                    │
//!            └───────────────── acknowledge ◀─ (control stream) ◀─ written ◀──────┘
//! ```
//!
//! What this crate does not know: sockets, tasks, clocks, ZFS, or how a lane is made. It never waits; whoever drives it
//! decides when to call. Losing a connection costs no byte: both state machines stay, the driver reports the lost lanes
//! and resends what is unacknowledged. Losing a process ends the transfer; the next one has another [`TransferId`], so
//! that late chunks of the old one are refused.
//!
//! Start reading at [`ChunkHeader`], then [`Sender`] and [`Receiver`].

mod chunk;
mod digest;
mod error;
mod receiver;
mod sender;
#[cfg(test)]
mod simulation;

use std::fmt;

pub use chunk::{Chunk, ChunkHeader, Form, HEADER_BYTES};
pub use digest::{Digest, Digester, StreamDigest};
pub use error::Error;
pub use receiver::{Admission, Receiver};
pub use sender::{Lane, Sender};

/// The length of each chunk but the last of a stream.
///
/// Small enough to stay in a core's cache from the pipe to the socket, large enough that what a chunk costs does not count.
pub const CHUNK_BYTES: usize = 1 << 20;

/// [`CHUNK_BYTES`] in the type of stream positions.
const FULL_CHUNK: u64 = CHUNK_BYTES as u64;

/// Names one transfer; chosen at random by whoever opens it and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransferId(pub [u8; 16]);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A cumulative acknowledgement: everything before a point is written into the receiver's sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// All chunks below this index are written.
    pub chunks: u64,
    /// The length of those chunks together.
    pub bytes: u64,
}

/// The end of a stream, as its sender saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fin {
    /// The length of the stream.
    pub bytes: u64,
    /// The number of its chunks: `bytes / CHUNK_BYTES`, rounded up.
    pub chunks: u64,
    /// The [`StreamDigest`] over all of them.
    pub digest: Digest,
}

/// Refuses a window in which not even one chunk fits: nothing would ever move.
fn check_window(window_bytes: u64, chunk_bytes: u64) -> Result<(), Error> {
    if window_bytes < chunk_bytes {
        return Err(Error::Window { window_bytes, least: chunk_bytes });
    }
    Ok(())
}
