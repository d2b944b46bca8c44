use crate::{Digest, TransferId};

/// Why a chunk, an acknowledgement or an end was refused.
///
/// Each of them says that the two sides disagree about the stream, or that bytes changed on their way: the transfer
/// cannot go on and has to be started again. What was handed out before stays a true prefix of the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes do not begin like a chunk header.
    #[error(
        "not a chunk of this protocol: it begins with {found:02x?}; the two nodes may run versions that do not fit"
    )]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A way to travel that this version does not know.
    #[error("chunk travels in an unknown form {0:#04x}: update the receiving node")]
    Flags(u8),
    /// What travels cannot be the payload that the header describes.
    #[error("chunk of {length} bytes travels as {travels}, which does not fit its form")]
    Travels {
        /// Of the payload.
        length: u32,
        /// Of what travels.
        travels: u32,
    },
    /// What travelled is no frame of zstd, or holds something else than was announced.
    #[error("chunk {index} cannot be decompressed to {length} bytes")]
    Unpack {
        /// Of the chunk.
        index: u64,
        /// By the header.
        length: u32,
    },
    /// A header length that no chunk may have.
    #[error("chunk of {length} bytes: a chunk has 1 to {most} bytes")]
    Length {
        /// As the header said.
        length: u64,
        /// The most that is accepted.
        most: u64,
    },
    /// Index and offset of a header contradict each other.
    #[error("chunk {index} claims to stand at byte {offset}, where no chunk {index} can stand")]
    Offset {
        /// As the header said.
        index: u64,
        /// As the header said.
        offset: u64,
    },
    /// A chunk of another transfer, such as a late one of an earlier attempt.
    #[error("chunk belongs to transfer {found}, not to {expected}")]
    OtherTransfer {
        /// Ours.
        expected: TransferId,
        /// The chunk's.
        found: TransferId,
    },
    /// The payload is not what the header describes.
    #[error("chunk {index} was damaged on its way: its header says {expected}, its bytes give {found}")]
    Corrupt {
        /// Of the chunk.
        index: u64,
        /// By the header.
        expected: Digest,
        /// Of the payload.
        found: Digest,
    },
    /// The payload has another length than its header says.
    #[error("chunk {index} has {found} bytes where its header says {expected}")]
    Truncated {
        /// Of the chunk.
        index: u64,
        /// By the header.
        expected: u64,
        /// Of the payload.
        found: u64,
    },
    /// The sender ignores the window.
    #[error(
        "chunk {index} ends at byte {end}, beyond the window that ends at {limit}: the sender exceeded its credit"
    )]
    TooFarAhead {
        /// Of the chunk.
        index: u64,
        /// Where it ends.
        end: u64,
        /// Where the window ends.
        limit: u64,
    },
    /// A chunk that is not the last is short, or one follows the last.
    #[error("chunk {index} of {length} bytes does not fit a stream of {chunks} chunks and {bytes} bytes")]
    BeyondEnd {
        /// Of the chunk that does not fit.
        index: u64,
        /// Its length.
        length: u64,
        /// Chunks in the stream, by what is known of its end.
        chunks: u64,
        /// Bytes in the stream, by what is known of its end.
        bytes: u64,
    },
    /// The end contradicts the chunks.
    #[error(
        "the stream ended after {found_chunks} chunks and {found_bytes} bytes, but its sender says {chunks} and {bytes}"
    )]
    EndMismatch {
        /// By the sender.
        chunks: u64,
        /// By the sender.
        bytes: u64,
        /// As received.
        found_chunks: u64,
        /// As received.
        found_bytes: u64,
    },
    /// All chunks arrived whole, but they are not the stream that the sender sent.
    #[error("the digest over the stream's chunks is {found}, but its sender says {expected}")]
    StreamDigest {
        /// By the sender.
        expected: Digest,
        /// As received.
        found: Digest,
    },
    /// An acknowledgement of something that was never sent, or that falls between two chunks.
    #[error("acknowledgement of {chunks} chunks and {bytes} bytes, where {sent} chunks were sent")]
    Ack {
        /// As acknowledged.
        chunks: u64,
        /// As acknowledged.
        bytes: u64,
        /// Chunks that were handed to a lane so far.
        sent: u64,
    },
    /// A window that holds no chunk.
    #[error("a window of {window_bytes} bytes holds no chunk: it needs at least {least}")]
    Window {
        /// As asked for.
        window_bytes: u64,
        /// One chunk.
        least: u64,
    },
}
