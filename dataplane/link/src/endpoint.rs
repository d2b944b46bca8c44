//! A UDP socket that links start from and arrive at.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Once},
    time::Duration,
};

use aws_lc_rs::{digest, hmac};
use ds_domain::ids::NodeId;
use quinn::{EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::sockopt;
use tokio::time::timeout;

use crate::{
    Error, Identity, Link, Peer, Result,
    link::{MAX_CHUNK_STREAMS, MAX_CONTROL_STREAMS},
    tls,
};

/// Until a handshake must be over, in either direction.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Below the time after which home routers forget a UDP flow, and far below [`IDLE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Silence after which the other end is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A chunk of 4 MiB and its header arrive without waiting for credit.
const STREAM_WINDOW_BYTES: u32 = (4 << 20) + (64 << 10);
/// Bytes of one link in memory here that nobody has read yet: enough for 2.5 Gb/s over 100 ms.
const LINK_WINDOW_BYTES: u32 = 32 << 20;
/// With less, bursts are lost in the kernel: 0.25 % of all packets on loopback with the usual 208 KiB.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Jumbo frames where the path has them. Above about 9,000, GSO batches exceed 64 KiB and fail.
const LARGEST_MTU: u16 = 8_900;

/// Makes links with one identity. Cheap to clone; all clones share one socket.
#[derive(Clone)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    client: quinn::ClientConfig,
}

impl Endpoint {
    /// Listens on `address` and can connect as well. Needs a Tokio runtime around it.
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self> {
        let transport = Arc::new(transport());
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::server(identity)?));
        server.transport_config(Arc::clone(&transport));
        Self::new(address, Some(server), identity, transport)
    }

    /// Only connects, from any free port. Needs a Tokio runtime around it.
    pub fn client(identity: &Identity) -> Result<Self> {
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let transport = Arc::new(transport());
        // An IPv6 socket reaches both; machines without IPv6 refuse it.
        Self::new(any_v6, None, identity, Arc::clone(&transport))
            .or_else(|_| Self::new(any_v4, None, identity, transport))
    }

    fn new(
        address: SocketAddr,
        server: Option<quinn::ServerConfig>,
        identity: &Identity,
        transport: Arc<TransportConfig>,
    ) -> Result<Self> {
        let bind = |source| Error::Bind { address, source };
        let socket = UdpSocket::bind(address).map_err(bind)?;
        enlarge_buffers(&socket);
        let quinn =
            quinn::Endpoint::new(config(identity), server, socket, Arc::new(TokioRuntime)).map_err(bind)?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls::client(identity)?));
        client.transport_config(transport);
        Ok(Self { quinn, client })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let unspecified = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        self.quinn.local_addr().map_err(|source| Error::Bind { address: unspecified, source })
    }

    /// Links to the node `expected` at `address`; any other node there is refused.
    ///
    /// The other end's verdict over our own certificate may arrive after this returns: then the link's first use says
    /// [`Error::Refused`].
    pub async fn connect(&self, address: SocketAddr, expected: NodeId) -> Result<Link> {
        let who = format!("{expected} at {address}");
        let connecting = self
            .quinn
            .connect_with(self.client.clone(), address, &Peer::dns_name(expected))
            .map_err(|e| Error::Unreachable { who: who.clone(), reason: e.to_string() })?;
        let connection = timeout(HANDSHAKE_PATIENCE, connecting)
            .await
            .map_err(|_| Error::TimedOut { who: who.clone() })?
            .map_err(|e| Error::connection(who, &e))?;
        Link::new(connection)
    }

    /// The next node that knocks; `None` once the endpoint is closed. Run [`Arriving::link`] in a task of its own, so
    /// that one slow handshake keeps nobody waiting.
    pub async fn accept(&self) -> Option<Arriving> {
        self.quinn.accept().await.map(Arriving)
    }

    /// Closes all links, telling the other ends why.
    pub fn close(&self, reason: &str) {
        self.quinn.close(VarInt::from_u32(0), reason.as_bytes());
    }

    /// Waits until the other ends of closed links were told, at most as long as the network takes to lose them.
    pub async fn closed(&self) {
        self.quinn.wait_idle().await;
    }
}

/// A node that knocked and has not shown who it is.
pub struct Arriving(quinn::Incoming);

impl Arriving {
    /// Where it knocks from.
    pub fn address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Whether it has shown that it can be reached at its address, and has not made that up.
    pub fn is_validated(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Has it show that it can be reached at its address, which costs a round trip and keeps nothing here: it knocks again,
    /// and then is validated. One that is validated already is turned away.
    pub fn validate(self) {
        if let Err(validated) = self.0.retry() {
            validated.into_incoming().refuse();
        }
    }

    /// Turns it away.
    pub fn refuse(self) {
        self.0.refuse();
    }

    /// Shakes hands. A node without a certificate of our CA is an error.
    pub async fn link(self) -> Result<Link> {
        let who = self.address();
        let connecting = self.0.accept().map_err(|e| Error::connection(who, &e))?;
        let connection = timeout(HANDSHAKE_PATIENCE, connecting)
            .await
            .map_err(|_| Error::TimedOut { who: who.to_string() })?
            .map_err(|e| Error::connection(who, &e))?;
        Link::new(connection)
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
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(LARGEST_MTU);
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("30 s fit")))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(LINK_WINDOW_BYTES))
        .send_window(u64::from(LINK_WINDOW_BYTES))
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
