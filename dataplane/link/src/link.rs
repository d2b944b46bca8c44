//! A link and the streams on it.
//!
//! Either end may open a **control stream**: both directions carry framed protobuf messages ([`crate::framing`]), the
//! first one a `StreamOpen`, and where a message says so raw bytes until the end of the stream. **Chunk streams** go
//! one way; they begin with four bytes that name their encoding and 16 that name their transfer, by which they are sorted
//! ([`Link::chunks`]).

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use ds_proto::v1::StreamOpen;
use prost::Message;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error, Peer, Result,
    endpoint::Dialer,
    framing::{self, FrameError},
    routes::{Chunks, Routes},
    threads::Thread,
};

/// Control streams that the other end may have open at once.
pub const MAX_CONTROL_STREAMS: u32 = 64;
/// Chunk streams that the other end may have open at once, over all transfers of a link.
pub const MAX_CHUNK_STREAMS: u32 = 128;

/// Bytes at the head of each chunk stream that are read to see where it belongs.
pub const HEAD_BYTES: usize = 20;

const READ_BYTES: usize = 256 << 10;
/// Above chunks (0): an acknowledgement must not wait behind the data that it makes room for.
const CONTROL_PRIORITY: i32 = 1;

/// One authenticated connection with another node. Cheap to clone; when the last clone is gone it is closed.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    connection: Connection,
    peer: Peer,
    routes: Arc<Routes>,
    sorter: JoinHandle<()>,
    thread: Thread,
    /// At the end that dialled.
    dialer: Option<Dialer>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
        self.sorter.abort();
    }
}

impl Link {
    pub(crate) fn new(connection: Connection, thread: Thread, dialer: Option<Dialer>) -> Result<Self> {
        let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer>>().ok());
        let certificate = identity.as_deref().and_then(|chain| chain.first());
        let certificate =
            certificate.ok_or_else(|| Error::unusable("the link", "the other end is nameless"))?;
        let peer = Peer::from_certificate(certificate)?;
        let routes = Arc::new(Routes::default());
        let sorter = thread.spawn(Arc::clone(&routes).run(connection.clone(), peer));
        Ok(Self(Arc::new(Shared { connection, peer, routes, sorter, thread, dialer })))
    }

    /// Who the other end is.
    pub fn peer(&self) -> Peer {
        self.0.peer
    }

    /// Where the other end is; it may move.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// Dials the same node again, from a UDP port and on a thread of its own: as a further lane of a transfer, or because this
    /// link is lost. `None` at the end that was dialled.
    pub async fn another(&self) -> Option<Result<Self>> {
        let dialer = self.0.dialer.as_ref()?;
        Some(dialer.link(self.remote_address(), self.peer().node).await)
    }

    /// Runs `work` on the thread that drives this link, so that what it reads and writes stays in one core's caches. It
    /// ends with the answer.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.0.thread.spawn(work))
    }

    /// Opens a control stream with its first message. Waits while the other end has as many open as it allows.
    pub async fn open(&self, first: &StreamOpen) -> Result<Control> {
        let (send, recv) = self.0.connection.open_bi().await.map_err(|e| self.error(&e))?;
        let mut control = Control::new(send, recv, self.peer());
        control.send.send(first).await?;
        Ok(control)
    }

    /// The next control stream that the other end opened. Its first message, a [`StreamOpen`], has not been read: that
    /// is for a task of its own, so that one slow stream keeps none waiting.
    pub async fn accept(&self) -> Result<Control> {
        let (send, recv) = self.0.connection.accept_bi().await.map_err(|e| self.error(&e))?;
        Ok(Control::new(send, recv, self.peer()))
    }

    /// Opens the stream of one chunk. The first 20 bytes written are its [`ChunkReader::head`]. Waits while the other
    /// end has as many open as it allows.
    pub async fn open_chunk(&self) -> Result<ChunkWriter> {
        let stream = self.0.connection.open_uni().await.map_err(|e| self.error(&e))?;
        Ok(ChunkWriter { stream, peer: self.peer(), finished: false })
    }

    /// Where the chunks of `transfer` arrive from now on, until the answer is dropped. Those of transfers that nobody
    /// asked for are refused, and a peer that keeps sending them is cut off.
    pub fn chunks(&self, transfer: [u8; 16]) -> Chunks {
        Routes::open(&self.0.routes, transfer)
    }

    /// Completes when the link is no more, and says why.
    pub async fn closed(&self) -> Error {
        self.error(&self.0.connection.closed().await)
    }

    /// Whether it is no more.
    pub fn is_closed(&self) -> bool {
        self.0.connection.close_reason().is_some()
    }

    /// Closes it now for all clones and tells the other end why. What is under way is lost.
    pub fn close(&self, reason: &str) {
        self.0.connection.close(VarInt::from_u32(0), reason.as_bytes());
    }

    fn error(&self, error: &quinn::ConnectionError) -> Error {
        Error::connection(self.peer(), error)
    }
}

/// A control stream.
#[derive(Debug)]
pub struct Control {
    /// To the other end.
    pub send: ControlSender,
    /// From the other end.
    pub recv: ControlReceiver,
}

impl Control {
    fn new(send: SendStream, recv: RecvStream, peer: Peer) -> Self {
        // Fails only if the stream is gone, which its first use will say.
        let _ = send.set_priority(CONTROL_PRIORITY);
        Self {
            send: ControlSender { stream: send, peer, finished: false },
            recv: ControlReceiver { stream: recv, peer, buffer: BytesMut::new() },
        }
    }
}

/// The outgoing half of a control stream. Dropped without [`ControlSender::finish`] it is reset, so that what was sent
/// is never taken for the whole.
#[derive(Debug)]
pub struct ControlSender {
    stream: SendStream,
    peer: Peer,
    finished: bool,
}

impl ControlSender {
    /// Sends one message. Not to be cancelled half-way: what follows would not be understood.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<()> {
        self.send_bytes(framing::encode(message)?).await
    }

    /// Sends raw bytes, where a message before said that such follow.
    pub async fn send_bytes(&mut self, bytes: Bytes) -> Result<()> {
        self.stream.write_chunk(bytes).await.map_err(|e| write_error(self.peer, &e))
    }

    /// Ends this direction.
    pub fn finish(&mut self) -> Result<()> {
        self.finished = true;
        self.stream.finish().map_err(|_| stopped(self.peer))
    }

    /// Breaks this direction off: the other end sees an error, not an end.
    pub fn reset(&mut self) {
        self.finished = true;
        // Fails only if it is over already.
        let _ = self.stream.reset(VarInt::from_u32(0));
    }

    /// Completes when the other end has received all that was sent before [`ControlSender::finish`], or wants no more.
    pub async fn delivered(&mut self) -> Result<()> {
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(quinn::StoppedError::ZeroRttRejected) => Err(stopped(self.peer)),
            Err(quinn::StoppedError::ConnectionLost(e)) => Err(Error::connection(self.peer, &e)),
        }
    }
}

impl Drop for ControlSender {
    fn drop(&mut self) {
        if !self.finished {
            self.reset();
        }
    }
}

/// The incoming half of a control stream. Dropped, it tells the other end to stop.
#[derive(Debug)]
pub struct ControlReceiver {
    stream: RecvStream,
    peer: Peer,
    buffer: BytesMut,
}

impl ControlReceiver {
    /// The next message; `None` at the stream's end. May be cancelled and called again.
    pub async fn recv<M: Message + Default>(&mut self) -> Result<Option<M>> {
        loop {
            if let Some(frame) = framing::decode(&mut self.buffer)? {
                return Ok(Some(M::decode(frame).map_err(FrameError::from)?));
            }
            match self.read().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Cut.into()),
            }
        }
    }

    /// The next piece of raw bytes, at most 256 KiB; `None` at the stream's end. May be cancelled and called again.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.buffer.is_empty() {
            return self.read().await;
        }
        Ok(Some(self.buffer.split().freeze()))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.stream.read_chunk(READ_BYTES, true).await.map_err(|e| read_error(self.peer, &e))?;
        Ok(chunk.map(|c| c.bytes))
    }
}

/// The outgoing stream of one chunk. Dropped without [`ChunkWriter::finish`] it is reset.
#[derive(Debug)]
pub struct ChunkWriter {
    stream: SendStream,
    peer: Peer,
    finished: bool,
}

impl ChunkWriter {
    /// Writes all of `bytes`, without copying them.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.stream.write_chunk(bytes).await.map_err(|e| write_error(self.peer, &e))
    }

    /// Ends the chunk. It is delivered also after this is dropped.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.stream.finish().map_err(|_| stopped(self.peer))
    }
}

impl Drop for ChunkWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(VarInt::from_u32(0));
        }
    }
}

/// The incoming stream of one chunk, whose head has been read. Dropped before its end, it tells the other end to stop.
#[derive(Debug)]
pub struct ChunkReader {
    stream: RecvStream,
    peer: Peer,
    head: [u8; HEAD_BYTES],
}

impl ChunkReader {
    /// Waits for the head of a new stream.
    pub(crate) async fn open(mut stream: RecvStream, peer: Peer) -> Result<Self> {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await.map_err(|_| FrameError::Cut)?;
        Ok(Self { stream, peer, head })
    }

    /// Its first bytes: four that name the encoding, 16 that name the transfer.
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        self.head
    }

    pub(crate) fn transfer(&self) -> [u8; 16] {
        *self.head.last_chunk().expect("a head is longer than that")
    }

    /// Fills `buffer`.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.stream.read_exact(buffer).await.map_err(|e| match e {
            quinn::ReadExactError::FinishedEarly(_) => FrameError::Cut.into(),
            quinn::ReadExactError::ReadError(e) => read_error(self.peer, &e),
        })
    }

    /// The next piece, at most `limit` bytes; `None` at the chunk's end.
    pub async fn read(&mut self, limit: usize) -> Result<Option<Bytes>> {
        let chunk = self.stream.read_chunk(limit, true).await.map_err(|e| read_error(self.peer, &e))?;
        Ok(chunk.map(|c| c.bytes))
    }
}

fn read_error(peer: Peer, error: &ReadError) -> Error {
    match error {
        ReadError::ConnectionLost(e) => Error::connection(peer, e),
        _ => Error::Closed { who: peer.to_string(), reason: "it broke the stream off".into() },
    }
}

fn write_error(peer: Peer, error: &WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(e) => Error::connection(peer, e),
        _ => stopped(peer),
    }
}

fn stopped(peer: Peer) -> Error {
    Error::Closed { who: peer.to_string(), reason: "it wants no more of this stream".into() }
}
