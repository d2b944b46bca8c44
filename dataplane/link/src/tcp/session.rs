//! A TLS session over a TCP socket: rustls's, from the handshake on, until its keys are taken over by a lane.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use rustix::net::sockopt;
use rustls::{ClientConfig, ExtractedSecrets, ServerConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{
    Error, Peer, Result,
    congestion::LONG_ROUND_TRIP,
    quic::{IDLE_TIMEOUT, KEEP_ALIVE},
};

/// Of the kernel, in silence, before it takes the other end for gone.
const KEEP_ALIVE_PROBES: u32 = 2;
/// On long paths: does not take each loss for congestion, as CUBIC does. Where the kernel does not have it, its own default
/// stays.
const FAR: &str = "bbr";
/// On long paths: bytes that may wait in the socket before they are sent. The kernel would take several round trips of them,
/// for which the chunks of other lanes would have to wait at the far end.
const FAR_UNSENT_BYTES: u32 = 1 << 20;

/// A session.
pub(super) type Session = TlsStream<RecordByRecord>;

/// Shakes hands with the node that dialled.
pub(super) async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<(Session, Peer)> {
    configure(&socket)?;
    let start = Instant::now();
    let mut session = TlsAcceptor::from(config).accept(RecordByRecord::new(socket)).await?;
    // The other end's certificate came a round trip after ours was sent.
    session.get_mut().0.is_far_by(start.elapsed());
    with_peer(session.into())
}

/// Dials the node of that DNS name.
pub(super) async fn connect(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> io::Result<(Session, Peer)> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let start = Instant::now();
    let mut socket = RecordByRecord::new(TcpStream::connect(address).await?);
    socket.is_far_by(start.elapsed());
    configure(&socket.socket)?;
    let session = TlsConnector::from(config).connect(name, socket).await?;
    with_peer(session.into())
}

fn with_peer(session: Session) -> io::Result<(Session, Peer)> {
    let (_, state) = session.get_ref();
    let certificate = state.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("the other end is nameless"))?;
    let peer = Peer::from_certificate(certificate).map_err(io::Error::other)?;
    Ok((session, peer))
}

/// The socket beneath, and the keys. Only where both ends have agreed that what follows is no longer the session's.
pub(super) fn dissolve(session: Session) -> Result<(TcpStream, ExtractedSecrets)> {
    let (stream, secrets) = match session {
        TlsStream::Client(session) => {
            let (stream, session) = session.into_inner();
            (stream, session.dangerous_extract_secrets())
        }
        TlsStream::Server(session) => {
            let (stream, session) = session.into_inner();
            (stream, session.dangerous_extract_secrets())
        }
    };
    Ok((stream.socket, secrets.map_err(|e| Error::unusable("the TLS session", e))?))
}

fn configure(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(socket, u32::try_from(IDLE_TIMEOUT.as_millis()).expect("15 s fit"))?;
    Ok(())
}

/// How long a packet took there and back when the session began.
pub(super) fn round_trip(session: &Session) -> Duration {
    session.get_ref().0.round_trip
}

/// The kernel no longer takes it for a loss when the other end makes no room for long: what is on the socket from now on shows by
/// itself that its ends are there.
pub(super) fn wait_for_room(socket: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_tcp_user_timeout(socket, 0)?)
}

/// A socket of which no read crosses the end of a TLS record. So whoever reads records through it never holds a byte
/// of the next one, and another can go on at the socket.
#[derive(Debug)]
pub(super) struct RecordByRecord {
    socket: TcpStream,
    header: [u8; HEADER_BYTES],
    /// Of the header.
    seen: usize,
    /// Of the record's body.
    left: usize,
    round_trip: Duration,
}

const HEADER_BYTES: usize = 5;

impl RecordByRecord {
    fn new(socket: TcpStream) -> Self {
        Self { socket, header: [0; HEADER_BYTES], seen: 0, left: 0, round_trip: Duration::ZERO }
    }

    /// A packet takes so long there and back. What is set on a long path is a preference: its refusal changes nothing but the speed.
    fn is_far_by(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
        if round_trip >= LONG_ROUND_TRIP {
            let _ = sockopt::set_tcp_congestion(&self.socket, FAR);
            let _ = SockRef::from(&self.socket).set_tcp_notsent_lowat(FAR_UNSENT_BYTES);
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        if self.left > 0 {
            self.left -= bytes.len();
            return;
        }
        self.header[self.seen..self.seen + bytes.len()].copy_from_slice(bytes);
        self.seen += bytes.len();
        if self.seen == HEADER_BYTES {
            self.seen = 0;
            self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        }
    }
}

impl AsyncRead for RecordByRecord {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = if self.left > 0 { self.left } else { HEADER_BYTES - self.seen };
        let most = most.min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut piece))?;
        self.passed(piece.filled());
        let length = piece.filled().len();
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecordByRecord {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
