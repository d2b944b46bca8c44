//! A link and what goes over it.
//!
//! Either end may open a **control stream**: both directions carry framed protobuf messages ([`crate::framing`]), the
//! first one a `StreamOpen`, and where a message says so raw bytes until the end of the stream. **Chunks** go one way;
//! they begin with four bytes that name their encoding and 16 that name their transfer, by which they are sorted
//! ([`Link::chunks`]).
//!
//! There are two kinds. On QUIC all of it shares one connection. Over TCP each control stream has its own, which both ends can
//! agree to make a lane for chunks ([`Link::become_lane`]).

use std::{fmt, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use ds_proto::v1::StreamOpen;
use quinn::VarInt;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Control, Error, Peer, Result,
    endpoint::Dialer,
    quic::QuicLink,
    routes::{Chunks, Routes},
    tcp::TcpLink,
};

/// Control streams that the other end may have open at once.
pub const MAX_CONTROL_STREAMS: u32 = 64;
/// Chunk streams that the other end may have open at once, over all transfers of a link: twice the window of one, since a stream
/// that was read to its end is open for another round trip.
pub const MAX_CHUNK_STREAMS: u32 = 256;

/// What a link goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS 1.3 over TCP.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC",
            Self::Tcp => "TCP",
        })
    }
}

/// What drives a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The runtime of whoever makes it one: best where that is the thread of the transfer ([`crate::apart`]), since then a chunk stays
    /// in the caches of one core from the pipe to the socket.
    Here,
    /// The link's own thread, so that it has a core to itself.
    Apart,
}

/// An authenticated way to another node. Cheap to clone; when the last clone is gone it is closed.
#[derive(Clone)]
pub struct Link(Kind);

#[derive(Clone)]
enum Kind {
    Quic(Arc<QuicLink>),
    Tcp(Arc<TcpLink>),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Link");
        shown.field("peer", &self.peer()).field("transport", &self.transport()).finish_non_exhaustive()
    }
}

impl From<QuicLink> for Link {
    fn from(link: QuicLink) -> Self {
        Self(Kind::Quic(Arc::new(link)))
    }
}

impl From<TcpLink> for Link {
    fn from(link: TcpLink) -> Self {
        Self(Kind::Tcp(Arc::new(link)))
    }
}

impl Link {
    /// Who the other end is.
    pub fn peer(&self) -> Peer {
        match &self.0 {
            Kind::Quic(link) => link.peer,
            Kind::Tcp(link) => link.peer,
        }
    }

    /// What it goes over.
    pub fn transport(&self) -> Transport {
        match &self.0 {
            Kind::Quic(_) => Transport::Quic,
            Kind::Tcp(_) => Transport::Tcp,
        }
    }

    /// Where the other end is; on QUIC it may move.
    pub fn remote_address(&self) -> SocketAddr {
        match &self.0 {
            Kind::Quic(link) => link.connection.remote_address(),
            Kind::Tcp(link) => link.address,
        }
    }

    /// How long a packet takes there and back at least.
    pub fn round_trip(&self) -> Duration {
        match &self.0 {
            Kind::Quic(link) => link.connection.min_rtt(),
            Kind::Tcp(link) => link.round_trip,
        }
    }

    /// Lanes that a transfer which is opened from here may have, where that was settled.
    pub fn most_lanes(&self) -> Option<NonZeroUsize> {
        self.dialer().and_then(Dialer::most_lanes)
    }

    /// Dials the same node again, in whichever way it can be reached, from a port and on a thread of its own: because this link is
    /// lost. `None` at the end that was dialled.
    pub async fn another(&self) -> Option<Result<Self>> {
        let dialer = self.dialer()?;
        Some(dialer.dial(self.remote_address(), self.peer().node).await)
    }

    /// The same over `transport`: for a further lane of a transfer. `None` also where the endpoint was told to use the other
    /// one only.
    pub async fn another_over(&self, transport: Transport) -> Option<Result<Self>> {
        let dialer = self.dialer().filter(|dialer| dialer.transports().allow(transport))?;
        Some(dialer.dial_over(transport, self.remote_address(), self.peer().node).await)
    }

    /// Whether a further lane over `transport` could be dialled from here.
    pub fn could_be_over(&self, transport: Transport) -> bool {
        self.dialer().is_some_and(|dialer| dialer.transports().allow(transport))
    }

    /// Runs `work` on the thread that drives this link, so that what it reads and writes stays in one core's caches. It
    /// ends with the answer.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        let driver = match &self.0 {
            Kind::Quic(link) => link.thread.handle(),
            Kind::Tcp(link) => link.driver(),
        };
        AbortOnDropHandle::new(driver.spawn(work))
    }

    /// Opens a control stream with its first message. Waits while the other end has as many open as it allows.
    pub async fn open(&self, first: &StreamOpen) -> Result<Control> {
        match &self.0 {
            Kind::Quic(link) => {
                let streams = link.connection.open_bi().await;
                let streams = streams.map_err(|e| Error::connection(link.peer, &e))?;
                let mut control = Control::over_quic(streams, link.peer);
                control.send.send(first).await?;
                Ok(control)
            }
            Kind::Tcp(link) => link.open(first).await,
        }
    }

    /// From now on the other end's silence on `control` is its loss ([`Error::TimedOut`] from its receiver), also where somebody
    /// on the path acknowledges what does not arrive. Both ends ask for it when the stream begins, and say messages only, no
    /// raw bytes. On QUIC the connection sees to it.
    pub fn keep_alive(&self, control: &mut Control) {
        if let Kind::Tcp(link) = &self.0 {
            link.keep_alive(control);
        }
    }

    /// The next control stream that the other end opened. Its first message, a [`StreamOpen`], has not been read: that
    /// is for a task of its own, so that one slow stream keeps none waiting.
    pub async fn accept(&self) -> Result<Control> {
        match &self.0 {
            Kind::Quic(link) => {
                let streams = link.connection.accept_bi().await;
                Ok(Control::over_quic(streams.map_err(|e| Error::connection(link.peer, &e))?, link.peer))
            }
            Kind::Tcp(link) => link.accept_stream().await,
        }
    }

    /// Whether [`Link::send_chunk`] can be used and [`Link::chunks`] can bring any: always on QUIC, over TCP when it has
    /// become a lane.
    pub fn is_lane(&self) -> bool {
        match &self.0 {
            Kind::Quic(_) => true,
            Kind::Tcp(link) => link.is_lane(),
        }
    }

    /// Makes it a lane, once both ends have said on `control`, its only stream, that nothing but chunks will follow. QUIC stays where it
    /// is, whatever the `driver`.
    pub async fn become_lane(&self, mut control: Control, driver: Driver) -> Result<()> {
        match &self.0 {
            // Ended rather than reset, which could overtake what was said last.
            Kind::Quic(_) => control.send.finish().await,
            Kind::Tcp(link) => link.become_lane(control, driver),
        }
    }

    /// Sends one chunk: its header, the first 20 bytes of which are its [`crate::ChunkReader::head`], and its payload, which is
    /// not copied. Waits while the other end takes no more.
    pub async fn send_chunk(&self, header: &[u8], payload: Bytes) -> Result<()> {
        match &self.0 {
            Kind::Quic(link) => link.send_chunk(header, payload).await,
            Kind::Tcp(link) => link.send_chunk(header, &payload).await,
        }
    }

    /// Where the chunks of `transfer` arrive from now on, until the answer is dropped. Those of transfers that nobody
    /// asked for are refused, and a peer that keeps sending them is cut off.
    pub fn chunks(&self, transfer: [u8; 16]) -> Chunks {
        Routes::open(self.routes(), transfer)
    }

    /// Completes when the link is no more, and says why.
    pub async fn closed(&self) -> Error {
        match &self.0 {
            Kind::Quic(link) => Error::connection(link.peer, &link.connection.closed().await),
            Kind::Tcp(link) => link.closed().await,
        }
    }

    /// Whether it is no more.
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            Kind::Quic(link) => link.connection.close_reason().is_some(),
            Kind::Tcp(link) => link.is_closed(),
        }
    }

    /// Closes it now for all clones and, on QUIC, tells the other end why. What is under way is lost.
    pub fn close(&self, reason: &str) {
        match &self.0 {
            Kind::Quic(link) => link.connection.close(VarInt::from_u32(0), reason.as_bytes()),
            Kind::Tcp(link) => link.close(),
        }
    }

    fn dialer(&self) -> Option<&Dialer> {
        match &self.0 {
            Kind::Quic(link) => link.dialer.as_ref(),
            Kind::Tcp(link) => link.dialer(),
        }
    }

    fn routes(&self) -> &Arc<Routes> {
        match &self.0 {
            Kind::Quic(link) => &link.routes,
            Kind::Tcp(link) => &link.routes,
        }
    }
}
