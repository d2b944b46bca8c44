//! Links over QUIC: one connection, with a stream for each control stream and each chunk.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Once,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use quinn::{
    AckFrequencyConfig, Connection, EndpointConfig, MtuDiscoveryConfig, ReadError, SendStream,
    TransportConfig, VarInt, WriteError,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustls::pki_types::CertificateDer;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error, Identity, Peer, Result,
    congestion::{ByDistanceConfig, LONG_ROUND_TRIP},
    control::unwanted,
    endpoint::Dialer,
    link::{MAX_CHUNK_STREAMS, MAX_CONTROL_STREAMS},
    routes::Routes,
    threads::Thread,
};

/// Below the time after which home routers forget a UDP flow, and far below [`IDLE_TIMEOUT`].
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Silence after which the other end is gone.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// A chunk of 1 MiB and its header arrive without waiting for credit.
const STREAM_WINDOW_BYTES: u32 = (1 << 20) + (64 << 10);
/// Bytes of one link in memory here that nobody has read yet: as much as the window of a transfer.
const LINK_WINDOW_BYTES: u32 = 128 << 20;
/// Bytes that a link takes from those who write into it and has not sent for the first time, or not heard of.
const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// The most of that where the path is long: 5 Gb/s over 100 ms.
const LONG_SEND_WINDOW_BYTES: u64 = 64 << 20;
/// What a link over a long path takes beyond two congestion windows.
const LONG_BACKLOG_BYTES: u64 = 8 << 20;
/// With less, bursts are lost in the kernel: 0.25 % of all packets on loopback with the usual 208 KiB.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Jumbo frames where the path has them. Quinn sends up to ten packets in one call, and the kernel takes 64 KiB at most.
const LARGEST_MTU: u16 = 6_500;
/// Packets after which the far end acknowledges at the latest. Each acknowledgement costs both ends about as much as a packet;
/// a gap is acknowledged at once all the same.
const ACK_THRESHOLD: u32 = 40;

/// A connection with a node.
pub(crate) struct QuicLink {
    pub(crate) connection: Connection,
    pub(crate) peer: Peer,
    pub(crate) routes: Arc<Routes>,
    pub(crate) thread: Thread,
    /// At the end that dialled.
    pub(crate) dialer: Option<Dialer>,
    /// Of the next chunk's stream. What of an earlier chunk has to be sent again goes first.
    next_priority: AtomicI32,
    _sorter: AbortOnDropHandle<()>,
}

impl QuicLink {
    pub(crate) fn new(connection: Connection, thread: Thread, dialer: Option<Dialer>) -> Result<Self> {
        let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer>>().ok());
        let certificate = identity.as_deref().and_then(|chain| chain.first());
        let certificate =
            certificate.ok_or_else(|| Error::unusable("the link", "the other end is nameless"))?;
        let peer = Peer::from_certificate(certificate)?;
        let routes = Arc::new(Routes::default());
        let sorter = thread.spawn_owned(Arc::clone(&routes).run(connection.clone(), peer));
        Ok(Self {
            connection,
            peer,
            routes,
            thread,
            dialer,
            next_priority: AtomicI32::new(i32::MAX),
            _sorter: sorter,
        })
    }

    /// Sends a chunk on a stream of its own. Waits while the other end has as many open as it allows. Cancelled half-way,
    /// the stream is reset.
    pub(crate) async fn send_chunk(&self, header: &[u8], payload: Bytes) -> Result<()> {
        let error = |e| write_error(self.peer, &e);
        let stream = self.connection.open_uni().await.map_err(|e| Error::connection(self.peer, &e))?;
        self.fit_backlog();
        // Fails only if the stream is over already.
        let _ = stream.set_priority(self.next_priority.fetch_sub(1, Ordering::Relaxed));
        let mut chunk = Unfinished(Some(stream));
        let stream = chunk.0.as_mut().expect("it was put there");
        stream.write_all(header).await.map_err(error)?;
        stream.write_chunk(payload).await.map_err(error)?;
        // It is delivered also after this is dropped.
        stream.finish().map_err(|_| unwanted(self.peer))?;
        chunk.0 = None;
        Ok(())
    }

    /// On a long path, what waits here for a slow lane would keep the chunks of faster ones waiting at the far end. So no more
    /// is taken than the lane can have under way, as much again so that its window can open, and a little to begin with.
    fn fit_backlog(&self) {
        if self.connection.min_rtt() >= LONG_ROUND_TRIP {
            let fitting = 2 * self.connection.stats().path.cwnd + LONG_BACKLOG_BYTES;
            self.connection.set_send_window(fitting.min(LONG_SEND_WINDOW_BYTES));
        }
    }
}

/// Dropped before its end, a stream must not look whole, as quinn would have it.
struct Unfinished(Option<SendStream>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(mut stream) = self.0.take() {
            // Fails only if it is over already.
            let _ = stream.reset(VarInt::from_u32(0));
        }
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
    }
}
pub(crate) fn read_error(peer: Peer, error: &ReadError) -> Error {
    match error {
        ReadError::ConnectionLost(e) => Error::connection(peer, e),
        _ => Error::Closed { who: peer.to_string(), reason: "it broke the stream off".into() },
    }
}

pub(crate) fn write_error(peer: Peer, error: &WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(e) => Error::connection(peer, e),
        _ => unwanted(peer),
    }
}

/// A UDP socket with the thread that drives it.
#[derive(Clone)]
pub(crate) struct Socket {
    pub(crate) thread: Thread,
    pub(crate) quinn: quinn::Endpoint,
}

impl Socket {
    /// On any free port, only to connect.
    pub(crate) fn client(config: &EndpointConfig) -> Result<Self> {
        let bind = |address| {
            let refused = |source| Error::Bind { address, source };
            let socket = UdpSocket::bind(address).map_err(refused)?;
            Self::new(config, None, socket).map_err(refused)
        };
        // An IPv6 socket reaches both; machines without IPv6 refuse it.
        bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
            .or_else(|_| bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    /// To be connected to as well. Others of this process may have its port too; the kernel gives each connection to one
    /// of them.
    pub(crate) fn server(
        config: &EndpointConfig,
        server: quinn::ServerConfig,
        address: SocketAddr,
    ) -> io::Result<Self> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        net::bind(&socket, &address)?;
        Self::new(config, Some(server), socket.into())
    }

    fn new(
        config: &EndpointConfig,
        server: Option<quinn::ServerConfig>,
        socket: UdpSocket,
    ) -> io::Result<Self> {
        enlarge_buffers(&socket);
        let thread = Thread::start()?;
        let quinn = thread.endpoint(config.clone(), server, socket)?;
        Ok(Self { thread, quinn })
    }
}

/// With keys that outlive the process, so that a node which was killed and started again recognizes the connection ids of its
/// last life and answers them with a reset (RFC 9000, section 10.3). The other end then connects anew at once, instead of
/// after [`IDLE_TIMEOUT`].
pub(crate) fn config(identity: &Identity) -> EndpointConfig {
    let derive =
        |label: &[u8]| digest::digest(&digest::SHA256, &[label, identity.key_pem().as_bytes()].concat());
    let reset = derive(b"dotstream quic reset\0");
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    let ids = derive(b"dotstream quic connection ids\0");
    let ids = u64::from_be_bytes(ids.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes"));
    config.max_udp_payload_size(LARGEST_MTU).expect("more than the least that QUIC allows");
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

pub(crate) fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(LARGEST_MTU);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(ByDistanceConfig { ack_threshold: ACK_THRESHOLD }))
        .ack_frequency_config(Some(acks))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("30 s fit")))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(LINK_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_CONTROL_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_CHUNK_STREAMS))
        .datagram_receive_buffer_size(None)
        // Chunk after chunk, not all at once: the far end puts them in order and should hold few.
        .send_fairness(false)
        .mtu_discovery_config(Some(mtu));
    config
}

/// The kernel clamps what is asked for without an error, so the size is read back.
fn enlarge_buffers(socket: &UdpSocket) {
    static WARNED: Once = Once::new();
    let set = |size| -> io::Result<usize> {
        sockopt::set_socket_recv_buffer_size(socket, size)?;
        sockopt::set_socket_send_buffer_size(socket, size)?;
        Ok(sockopt::socket_recv_buffer_size(socket)?.min(sockopt::socket_send_buffer_size(socket)?))
    };
    let size = set(SOCKET_BUFFER_BYTES).unwrap_or(0);
    // Linux reports twice the size, for its own bookkeeping.
    if size < SOCKET_BUFFER_BYTES {
        WARNED.call_once(|| {
            tracing::warn!(
                size_bytes = size / 2,
                wanted_bytes = SOCKET_BUFFER_BYTES,
                "UDP socket buffers are small and fast transfers will lose packets; \
                 set net.core.rmem_max and net.core.wmem_max to {SOCKET_BUFFER_BYTES} or more",
            );
        });
    }
}
