//! A UDP socket that links start from and arrive at.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use aws_lc_rs::{digest, hmac};
use ds_domain::ids::NodeId;
use futures_util::future::select_all;
use quinn::{AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::time::timeout;

use crate::{
    Error, Identity, Link, Peer, Result,
    link::{MAX_CHUNK_STREAMS, MAX_CONTROL_STREAMS},
    threads::Thread,
    tls,
};

/// Until a handshake must be over, in either direction.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Below the time after which home routers forget a UDP flow, and far below [`IDLE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Silence after which the other end is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// A chunk of 1 MiB and its header arrive without waiting for credit.
const STREAM_WINDOW_BYTES: u32 = (1 << 20) + (64 << 10);
/// Bytes of one link in memory here that nobody has read yet: as much as the window of a transfer.
const LINK_WINDOW_BYTES: u32 = 64 << 20;
/// Bytes that a link takes from those who write into it and has not sent for the first time, or not heard of.
const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// With less, bursts are lost in the kernel: 0.25 % of all packets on loopback with the usual 208 KiB.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Jumbo frames where the path has them. Quinn sends up to ten packets in one call, and the kernel takes 64 KiB at most.
const LARGEST_MTU: u16 = 6_500;
/// Packets after which the far end acknowledges at the latest. Each acknowledgement costs both ends about as much as a packet;
/// a gap is acknowledged at once all the same.
const ACK_THRESHOLD: u32 = 40;

/// Sockets that listen on one port: links are spread over them, so that several cores serve them. More than these wait
/// for memory, not for cores.
const MOST_SOCKETS: usize = 8;

/// Makes links with one identity. Cheap to clone; all clones share the same sockets.
#[derive(Clone)]
pub struct Endpoint {
    /// All on one port; the first is also the one to connect from.
    sockets: Arc<Vec<Socket>>,
    dialer: Dialer,
}

/// A UDP socket with the thread that drives it.
#[derive(Clone)]
struct Socket {
    thread: Thread,
    quinn: quinn::Endpoint,
}

/// What it takes to connect, from whichever socket.
#[derive(Clone)]
pub(crate) struct Dialer {
    client: quinn::ClientConfig,
    config: EndpointConfig,
}

impl Endpoint {
    /// Listens on `address` and can connect as well.
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self> {
        let transport = Arc::new(transport());
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::server(identity)?));
        server.transport_config(Arc::clone(&transport));
        let dialer = Dialer::new(identity, transport)?;
        let refused = |source| Error::Bind { address, source };
        // Sockets that share their port would let a second process in unseen; this one does not share.
        drop(UdpSocket::bind(address).map_err(refused)?);
        let wanted = thread::available_parallelism().map_or(1, usize::from).min(MOST_SOCKETS);
        let mut sockets = Vec::with_capacity(wanted);
        let mut shared = address;
        for _ in 0..wanted {
            let socket = bind_shared(shared).map_err(refused)?;
            shared = socket.local_addr().map_err(refused)?;
            sockets.push(Socket::new(&dialer, Some(server.clone()), socket).map_err(refused)?);
        }
        Ok(Self { sockets: Arc::new(sockets), dialer })
    }

    /// Only connects, from any free port.
    pub fn client(identity: &Identity) -> Result<Self> {
        let dialer = Dialer::new(identity, Arc::new(transport()))?;
        Ok(Self { sockets: Arc::new(vec![dialer.socket()?]), dialer })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let unspecified = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        self.sockets[0].quinn.local_addr().map_err(|source| Error::Bind { address: unspecified, source })
    }

    /// Links to the node `expected` at `address`; any other node there is refused.
    ///
    /// The other end's verdict over our own certificate may arrive after this returns: then the link's first use says
    /// [`Error::Refused`].
    pub async fn connect(&self, address: SocketAddr, expected: NodeId) -> Result<Link> {
        self.dialer.connect(&self.sockets[0], address, expected).await
    }

    /// The next node that knocks; `None` once the endpoint is closed. Run [`Arriving::link`] in a task of its own, so
    /// that one slow handshake keeps nobody waiting.
    pub async fn accept(&self) -> Option<Arriving> {
        let knocks = self.sockets.iter().map(|socket| {
            Box::pin(async {
                Some(Arriving { incoming: socket.quinn.accept().await?, thread: socket.thread.clone() })
            })
        });
        select_all(knocks).await.0
    }

    /// Closes all links, telling the other ends why.
    pub fn close(&self, reason: &str) {
        self.sockets.iter().for_each(|s| s.quinn.close(VarInt::from_u32(0), reason.as_bytes()));
    }

    /// Waits until the other ends of closed links were told, at most as long as the network takes to lose them.
    pub async fn closed(&self) {
        for socket in self.sockets.iter() {
            socket.quinn.wait_idle().await;
        }
    }
}

impl Dialer {
    fn new(identity: &Identity, transport: Arc<TransportConfig>) -> Result<Self> {
        let mut client = quinn::ClientConfig::new(Arc::new(tls::client(identity)?));
        client.transport_config(transport);
        Ok(Self { client, config: config(identity) })
    }

    /// A new socket on any free port.
    fn socket(&self) -> Result<Socket> {
        let bind = |address| {
            let refused = |source| Error::Bind { address, source };
            let socket = UdpSocket::bind(address).map_err(refused)?;
            Socket::new(self, None, socket).map_err(refused)
        };
        // An IPv6 socket reaches both; machines without IPv6 refuse it.
        bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
            .or_else(|_| bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    /// A link from a socket, and on a thread, of its own.
    pub(crate) async fn link(&self, address: SocketAddr, expected: NodeId) -> Result<Link> {
        self.connect(&self.socket()?, address, expected).await
    }

    async fn connect(&self, socket: &Socket, address: SocketAddr, expected: NodeId) -> Result<Link> {
        let who = format!("{expected} at {address}");
        let connecting = socket
            .quinn
            .connect_with(self.client.clone(), address, &Peer::dns_name(expected))
            .map_err(|e| Error::Unreachable { who: who.clone(), reason: e.to_string() })?;
        let connection = timeout(HANDSHAKE_PATIENCE, connecting)
            .await
            .map_err(|_| Error::TimedOut { who: who.clone() })?
            .map_err(|e| Error::connection(who, &e))?;
        Link::new(connection, socket.thread.clone(), Some(self.clone()))
    }
}

impl Socket {
    fn new(dialer: &Dialer, server: Option<quinn::ServerConfig>, socket: UdpSocket) -> io::Result<Self> {
        enlarge_buffers(&socket);
        let (thread, quinn) = Thread::with_endpoint(dialer.config.clone(), server, socket)?;
        Ok(Self { thread, quinn })
    }
}

/// A socket whose port others of this process may have too; the kernel gives each connection to one of them.
fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &address)?;
    Ok(socket.into())
}

/// A node that knocked and has not shown who it is.
pub struct Arriving {
    incoming: quinn::Incoming,
    thread: Thread,
}

impl Arriving {
    /// Where it knocks from.
    pub fn address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Whether it has shown that it can be reached at its address, and has not made that up.
    pub fn is_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Has it show that it can be reached at its address, which costs a round trip and keeps nothing here: it knocks again,
    /// and then is validated. One that is validated already is turned away.
    pub fn validate(self) {
        if let Err(validated) = self.incoming.retry() {
            validated.into_incoming().refuse();
        }
    }

    /// Turns it away.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Shakes hands. A node without a certificate of our CA is an error.
    pub async fn link(self) -> Result<Link> {
        let who = self.address();
        let connecting = self.incoming.accept().map_err(|e| Error::connection(who, &e))?;
        let connection = timeout(HANDSHAKE_PATIENCE, connecting)
            .await
            .map_err(|_| Error::TimedOut { who: who.to_string() })?
            .map_err(|e| Error::connection(who, &e))?;
        Link::new(connection, self.thread, None)
    }
}

/// With keys that outlive the process, so that a node which was killed and started again recognizes the connection ids of its
/// last life and answers them with a reset (RFC 9000, section 10.3). The other end then connects anew at once, instead of
/// after [`IDLE_TIMEOUT`].
fn config(identity: &Identity) -> EndpointConfig {
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

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(LARGEST_MTU);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
    let mut config = TransportConfig::default();
    config
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

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
