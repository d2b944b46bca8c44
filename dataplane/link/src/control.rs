//! Control streams: framed messages both ways, and where a message says so raw bytes until the end. On QUIC each is a
//! stream of the connection, over TCP each has a connection of its own.

use bytes::{Bytes, BytesMut};
use prost::Message;
use quinn::{RecvStream, SendStream, VarInt};

use crate::{
    Error, Peer, Result,
    framing::{self, FrameError},
    quic, tcp,
    threads::Thread,
};

const READ_BYTES: usize = 256 << 10;
/// Above chunks (0): an acknowledgement must not wait behind the data that it makes room for.
const PRIORITY: i32 = 1;

/// A control stream.
#[derive(Debug)]
pub struct Control {
    /// To the other end.
    pub send: ControlSender,
    /// From the other end.
    pub recv: ControlReceiver,
}

impl Control {
    pub(crate) fn over_quic((send, recv): (SendStream, RecvStream), peer: Peer) -> Self {
        // Fails only if the stream is gone, which its first use will say.
        let _ = send.set_priority(PRIORITY);
        Self::new(Outgoing::Quic(send), Incoming::Quic(recv), peer)
    }

    pub(crate) fn over_tcp(connection: tcp::Connection, peer: Peer) -> Self {
        let (send, recv) = connection.split();
        Self::new(Outgoing::Tcp(send), Incoming::Tcp(recv), peer)
    }

    fn new(outgoing: Outgoing, incoming: Incoming, peer: Peer) -> Self {
        Self {
            send: ControlSender { stream: outgoing, peer, finished: false },
            recv: ControlReceiver { stream: incoming, peer, buffer: BytesMut::new() },
        }
    }

    /// See [`crate::Link::keep_alive`].
    pub(crate) fn keep_alive(&mut self, thread: &Thread) {
        if let (Outgoing::Tcp(send), Incoming::Tcp(recv)) = (&mut self.send.stream, &mut self.recv.stream) {
            send.keep_alive(thread);
            recv.keep_alive();
        }
    }

    /// The connection beneath, if it is one of TCP that was not kept alive, and nothing was read off it that nobody has taken.
    pub(crate) fn into_connection(mut self) -> Option<tcp::Connection> {
        // What is taken apart must not be reset when the halves go.
        self.send.finished = true;
        match (self.send.stream.take(), self.recv.stream.take()) {
            (Outgoing::Tcp(send), Incoming::Tcp(recv)) if self.recv.buffer.is_empty() => {
                tcp::Connection::join(send, recv)
            }
            _ => None,
        }
    }
}

/// The outgoing half of a control stream. Dropped without [`ControlSender::finish`] it is reset, so that what was sent
/// is never taken for the whole.
#[derive(Debug)]
pub struct ControlSender {
    stream: Outgoing,
    peer: Peer,
    finished: bool,
}

#[derive(Debug)]
enum Outgoing {
    Quic(SendStream),
    Tcp(tcp::Outgoing),
    Taken,
}

impl Outgoing {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }
}

impl ControlSender {
    /// Sends one message. Not to be cancelled half-way: what follows would not be understood, and over TCP is an error.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<()> {
        self.send_bytes(framing::encode(message)?).await
    }

    /// Sends raw bytes, where a message before said that such follow.
    pub async fn send_bytes(&mut self, bytes: Bytes) -> Result<()> {
        match &mut self.stream {
            Outgoing::Quic(stream) => {
                stream.write_chunk(bytes).await.map_err(|e| quic::write_error(self.peer, &e))
            }
            Outgoing::Tcp(stream) => stream.write(&bytes, self.peer).await,
            Outgoing::Taken => Err(unwanted(self.peer)),
        }
    }

    /// Ends this direction.
    pub async fn finish(&mut self) -> Result<()> {
        self.finished = true;
        match &mut self.stream {
            Outgoing::Quic(stream) => stream.finish().map_err(|_| unwanted(self.peer)),
            Outgoing::Tcp(stream) => stream.finish(self.peer).await,
            Outgoing::Taken => Err(unwanted(self.peer)),
        }
    }

    /// Breaks this direction off: the other end sees an error, not an end. Over TCP the other direction breaks with it.
    pub fn reset(&mut self) {
        self.finished = true;
        match &mut self.stream {
            // Fails only if it is over already.
            Outgoing::Quic(stream) => drop(stream.reset(VarInt::from_u32(0))),
            Outgoing::Tcp(stream) => stream.reset(),
            Outgoing::Taken => {}
        }
    }

    /// Completes when the other end has received all that was sent before [`ControlSender::finish`], or wants no more. Over
    /// TCP that is up to the kernel, which goes on also when the stream is dropped, and this completes at once.
    pub async fn delivered(&mut self) -> Result<()> {
        let Outgoing::Quic(stream) = &mut self.stream else { return Ok(()) };
        match stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(quinn::StoppedError::ZeroRttRejected) => Err(unwanted(self.peer)),
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
    stream: Incoming,
    peer: Peer,
    buffer: BytesMut,
}

#[derive(Debug)]
enum Incoming {
    Quic(RecvStream),
    Tcp(tcp::Incoming),
    Taken,
}

impl Incoming {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }
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
        match &mut self.stream {
            Incoming::Quic(stream) => {
                let chunk = stream.read_chunk(READ_BYTES, true).await;
                Ok(chunk.map_err(|e| quic::read_error(self.peer, &e))?.map(|c| c.bytes))
            }
            Incoming::Tcp(stream) => stream.read(self.peer).await,
            Incoming::Taken => Err(unwanted(self.peer)),
        }
    }
}

/// The other end has turned away.
pub(crate) fn unwanted(peer: Peer) -> Error {
    Error::Closed { who: peer.to_string(), reason: "it wants no more of this stream".into() }
}
