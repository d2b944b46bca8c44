//! The chunk that is arriving: on QUIC a unidirectional stream of its own, over TCP the next in a lane.

use quinn::RecvStream;

use crate::{Error, Peer, Result, framing::FrameError, quic, tcp::Arrival};

/// Bytes at the head of each chunk that are read to see where it belongs: four that name the encoding, 16 that name the
/// transfer.
pub const HEAD_BYTES: usize = 20;

/// A chunk whose head has been read. Dropped before its end, the rest of it is not wanted.
#[derive(Debug)]
pub struct ChunkReader {
    head: [u8; HEAD_BYTES],
    source: Source,
}

#[derive(Debug)]
enum Source {
    Quic(RecvStream, Peer),
    Tcp(Arrival),
}

impl ChunkReader {
    /// Waits for the head of a new stream.
    pub(crate) async fn over_quic(mut stream: RecvStream, peer: Peer) -> Result<Self> {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await.map_err(|_| FrameError::Cut)?;
        Ok(Self { head, source: Source::Quic(stream, peer) })
    }

    pub(crate) fn over_tcp(head: [u8; HEAD_BYTES], arrival: Arrival) -> Self {
        Self { head, source: Source::Tcp(arrival) }
    }

    /// Its first bytes: four that name the encoding, 16 that name the transfer.
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        self.head
    }

    pub(crate) fn transfer(&self) -> [u8; 16] {
        *self.head.last_chunk().expect("a head is longer than that")
    }

    /// Fills `rest` with what its header has behind the head.
    pub async fn read_header(&mut self, rest: &mut [u8]) -> Result<()> {
        match &mut self.source {
            Source::Quic(stream, peer) => read_exact(stream, *peer, rest).await,
            Source::Tcp(arrival) => arrival.take_header(rest),
        }
    }

    /// Fills `payload`. A chunk whose payload is shorter or longer is an error.
    pub async fn read_payload(&mut self, payload: &mut [u8]) -> Result<()> {
        match &mut self.source {
            Source::Quic(stream, peer) => {
                read_exact(stream, *peer, payload).await?;
                match stream.read_chunk(1, true).await.map_err(|e| quic::read_error(*peer, &e))? {
                    None => Ok(()),
                    Some(_) => Err(FrameError::Long.into()),
                }
            }
            Source::Tcp(arrival) => arrival.read_payload(payload).await,
        }
    }
}

async fn read_exact(stream: &mut RecvStream, peer: Peer, buffer: &mut [u8]) -> Result<()> {
    stream.read_exact(buffer).await.map_err(|e| match e {
        quinn::ReadExactError::FinishedEarly(_) => Error::from(FrameError::Cut),
        quinn::ReadExactError::ReadError(e) => quic::read_error(peer, &e),
    })
}
