//! Where links arrive and start from: a port of UDP and of TCP.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroUsize,
    str::FromStr,
    sync::Arc,
    thread,
    time::Duration,
};

use ds_domain::ids::NodeId;
use futures_util::future::select_all;
use quinn::{EndpointConfig, VarInt};
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Error, Identity, Link, Peer, Result, Transport,
    quic::{self, QuicLink, Socket},
    tcp::TcpLink,
    threads::Thread,
    tls,
};

/// Until a handshake must be over, in either direction.
pub(crate) const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// A node that has not answered over QUIC for so long is tried over TCP beside.
const QUIC_HEAD_START: Duration = Duration::from_secs(1);
/// Sockets that listen on one port: links are spread over them, so that several cores serve them. More than these wait
/// for memory, not for cores.
const MOST_SOCKETS: usize = 8;
/// Ports that are tried where any will do, until one is free for both UDP and TCP.
const PORT_TRIES: usize = 16;
/// TCP connections that nobody has accepted: the kernel keeps further ones.
const KNOCKS: usize = 16;

/// What an endpoint may use to reach others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transports {
    /// QUIC, and TCP where QUIC does not get through or moves less.
    #[default]
    Auto,
    /// Nothing else.
    Only(Transport),
}

impl fmt::Display for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Only(Transport::Quic) => "quic",
            Self::Only(Transport::Tcp) => "tcp",
        })
    }
}

impl FromStr for Transports {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = [Self::Auto, Self::Only(Transport::Quic), Self::Only(Transport::Tcp)];
        let found = known.into_iter().find(|transports| transports.to_string() == name);
        found.ok_or_else(|| format!("{name:?} is none of auto, quic and tcp"))
    }
}

impl Transports {
    pub(crate) fn allow(self, transport: Transport) -> bool {
        self == Self::Auto || self == Self::Only(transport)
    }
}

/// Makes links with one identity. Cheap to clone; all clones share the same sockets.
#[derive(Clone)]
pub struct Endpoint {
    /// All on one port; the first is also the one to connect from.
    sockets: Arc<Vec<Socket>>,
    listener: Option<Arc<Listener>>,
    dialer: Dialer,
}

/// Accepts TCP connections on the port that the sockets have for UDP.
struct Listener {
    knocks: Mutex<mpsc::Receiver<(std::net::TcpStream, SocketAddr)>>,
    config: Arc<rustls::ServerConfig>,
    /// Ends all links that came through it.
    closing: CancellationToken,
    _accepting: AbortOnDropHandle<()>,
}

/// What it takes to connect.
#[derive(Clone)]
pub(crate) struct Dialer {
    transports: Transports,
    most_lanes: Option<NonZeroUsize>,
    quic: quinn::ClientConfig,
    config: EndpointConfig,
    tls: Arc<rustls::ClientConfig>,
}

impl Endpoint {
    /// Listens on `address`, both UDP and TCP, and can connect as well.
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self> {
        let dialer = Dialer::new(identity)?;
        let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        let mut last = None;
        for _ in 0..tries {
            match Self::listen(address, identity, dialer.clone()) {
                Ok(endpoint) => return Ok(endpoint),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("it was tried at least once"))
    }

    fn listen(address: SocketAddr, identity: &Identity, dialer: Dialer) -> Result<Self> {
        let refused = |source| Error::Bind { address, source };
        // UDP sockets that share their port would let a second process in unseen; these share only with each other.
        drop(UdpSocket::bind(address).map_err(refused)?);
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::quic_server(identity)?));
        server.transport_config(Arc::new(quic::transport()));
        let wanted = thread::available_parallelism().map_or(1, usize::from).min(MOST_SOCKETS);
        let mut sockets = Vec::with_capacity(wanted);
        let mut shared = address;
        for _ in 0..wanted {
            let socket = Socket::server(&dialer.config, server.clone(), shared).map_err(refused)?;
            shared = socket.quinn.local_addr().map_err(refused)?;
            sockets.push(socket);
        }
        let listener = TcpListener::bind(shared).map_err(refused)?;
        let listener = Listener::start(listener, &sockets[0].thread, tls::server(identity)?);
        let listener = listener.map_err(refused)?;
        Ok(Self { sockets: Arc::new(sockets), listener: Some(Arc::new(listener)), dialer })
    }

    /// Only connects, from any free port.
    pub fn client(identity: &Identity) -> Result<Self> {
        let dialer = Dialer::new(identity)?;
        Ok(Self { sockets: Arc::new(vec![Socket::client(&dialer.config)?]), listener: None, dialer })
    }

    /// Has each transfer that is opened from here use so many lanes at most, from now on.
    #[must_use]
    pub fn with_most_lanes(mut self, lanes: NonZeroUsize) -> Self {
        self.dialer.most_lanes = Some(lanes);
        self
    }

    /// Uses only these to connect, from now on.
    #[must_use]
    pub fn over(mut self, transports: Transports) -> Self {
        self.dialer.transports = transports;
        self
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
        self.dialer.dial_from(Some(&self.sockets[0]), address, expected).await
    }

    /// The next node that knocks; `None` once the endpoint is closed. Run [`Arriving::link`] in a task of its own, so
    /// that one slow handshake keeps nobody waiting.
    pub async fn accept(&self) -> Option<Arriving> {
        let over_quic = self.sockets.iter().map(|socket| {
            Box::pin(async {
                let incoming = socket.quinn.accept().await?;
                Some(Arriving { thread: socket.thread.clone(), knock: Knock::Quic(incoming.into()) })
            })
        });
        tokio::select! {
            (arriving, ..) = select_all(over_quic) => arriving,
            Some(arriving) = self.accept_tcp() => Some(arriving),
        }
    }

    async fn accept_tcp(&self) -> Option<Arriving> {
        let listener = self.listener.as_ref()?;
        let (socket, address) = listener.knocks.lock().await.recv().await?;
        // One thread for each connection of TCP would be too many at a busy store; by port they spread evenly enough.
        let thread = self.sockets[usize::from(address.port()) % self.sockets.len()].thread.clone();
        Some(Arriving { thread, knock: Knock::Tcp { socket, address, listener: Arc::clone(listener) } })
    }

    /// Closes all links, telling the other ends why where they are on QUIC.
    pub fn close(&self, reason: &str) {
        self.sockets.iter().for_each(|s| s.quinn.close(VarInt::from_u32(0), reason.as_bytes()));
        if let Some(listener) = &self.listener {
            listener.closing.cancel();
        }
    }

    /// Waits until the other ends of closed links were told, at most as long as the network takes to lose them.
    pub async fn closed(&self) {
        for socket in self.sockets.iter() {
            socket.quinn.wait_idle().await;
        }
    }
}

impl Listener {
    fn start(listener: TcpListener, thread: &Thread, config: rustls::ServerConfig) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (knock, knocks) = mpsc::channel(KNOCKS);
        let closing = CancellationToken::new();
        let until = closing.clone();
        let accepting = thread.spawn_owned(async move {
            until.run_until_cancelled(accept_all(listener, knock)).await;
        });
        Ok(Self { knocks: Mutex::new(knocks), config: Arc::new(config), closing, _accepting: accepting })
    }
}

async fn accept_all(listener: TcpListener, knock: mpsc::Sender<(std::net::TcpStream, SocketAddr)>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok(place) = knock.reserve().await {
        match listener.accept().await.and_then(|(socket, address)| Ok((socket.into_std()?, address))) {
            Ok(arrived) => place.send(arrived),
            // Of a node that was gone before it was accepted; or descriptors have run out, which passes.
            Err(error) => {
                tracing::debug!(%error, "a TCP connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Dialer {
    fn new(identity: &Identity) -> Result<Self> {
        let mut quic = quinn::ClientConfig::new(Arc::new(tls::quic_client(identity)?));
        quic.transport_config(Arc::new(quic::transport()));
        Ok(Self {
            transports: Transports::default(),
            most_lanes: None,
            quic,
            config: quic::config(identity),
            tls: Arc::new(tls::client(identity)?),
        })
    }

    pub(crate) fn transports(&self) -> Transports {
        self.transports
    }

    pub(crate) fn most_lanes(&self) -> Option<NonZeroUsize> {
        self.most_lanes
    }

    pub(crate) fn tls(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// A link from a socket, and on a thread, of its own.
    pub(crate) async fn dial(&self, address: SocketAddr, node: NodeId) -> Result<Link> {
        self.dial_from(None, address, node).await
    }

    /// Boxed, since a handshake's state is large, and who dials may be deep within others' futures.
    async fn dial_from(&self, from: Option<&Socket>, address: SocketAddr, node: NodeId) -> Result<Link> {
        match self.transports {
            Transports::Only(Transport::Quic) => Box::pin(self.over_quic(from, address, node)).await,
            Transports::Only(Transport::Tcp) => Box::pin(self.over_tcp(address, node)).await,
            Transports::Auto => self.over_either(from, address, node).await,
        }
    }

    pub(crate) async fn dial_over(
        &self,
        transport: Transport,
        address: SocketAddr,
        node: NodeId,
    ) -> Result<Link> {
        match transport {
            Transport::Quic => self.over_quic(None, address, node).await,
            Transport::Tcp => self.over_tcp(address, node).await,
        }
    }

    /// QUIC if it answers in time, else what comes first. QUIC is asked first each time, so a network that lets UDP through
    /// again is noticed.
    async fn over_either(&self, from: Option<&Socket>, address: SocketAddr, node: NodeId) -> Result<Link> {
        let mut quic = Box::pin(self.over_quic(from, address, node));
        if let Ok(linked) = timeout(QUIC_HEAD_START, &mut quic).await {
            return linked;
        }
        let mut tcp = Box::pin(self.over_tcp(address, node));
        tokio::select! {
            linked = &mut quic => match linked {
                Ok(link) => Ok(link),
                Err(error) if error.is_retryable() => tcp.await,
                Err(refused) => Err(refused),
            },
            linked = &mut tcp => match linked {
                Ok(link) => {
                    tracing::info!(%node, %address, "no answer over UDP: linked over TCP");
                    Ok(link)
                }
                Err(error) if error.is_retryable() => quic.await,
                Err(refused) => Err(refused),
            },
        }
    }

    async fn over_quic(&self, from: Option<&Socket>, address: SocketAddr, node: NodeId) -> Result<Link> {
        let own = if from.is_none() { Some(Socket::client(&self.config)?) } else { None };
        let socket = from.or(own.as_ref()).expect("there is one or the other");
        let who = format!("{node} at {address}");
        let connecting = socket
            .quinn
            .connect_with(self.quic.clone(), address, &Peer::dns_name(node))
            .map_err(|e| Error::Unreachable { who: who.clone(), reason: e.to_string() })?;
        let connection = timeout(HANDSHAKE_PATIENCE, connecting)
            .await
            .map_err(|_| Error::TimedOut { who: who.clone() })?
            .map_err(|e| Error::connection(who, &e))?;
        Ok(QuicLink::new(connection, socket.thread.clone(), Some(self.clone()))?.into())
    }

    async fn over_tcp(&self, address: SocketAddr, node: NodeId) -> Result<Link> {
        Ok(TcpLink::dial(self, address, node).await?.into())
    }
}

/// A node that knocked and has not shown who it is.
pub struct Arriving {
    thread: Thread,
    knock: Knock,
}

enum Knock {
    Quic(Box<quinn::Incoming>),
    Tcp { socket: std::net::TcpStream, address: SocketAddr, listener: Arc<Listener> },
}

impl Arriving {
    /// Where it knocks from.
    pub fn address(&self) -> SocketAddr {
        match &self.knock {
            Knock::Quic(incoming) => incoming.remote_address(),
            Knock::Tcp { address, .. } => *address,
        }
    }

    /// Whether it has shown that it can be reached at its address, and has not made that up. TCP shows it by itself.
    pub fn is_validated(&self) -> bool {
        match &self.knock {
            Knock::Quic(incoming) => incoming.remote_address_validated(),
            Knock::Tcp { .. } => true,
        }
    }

    /// Has it show that it can be reached at its address, which costs a round trip and keeps nothing here: it knocks again,
    /// and then is validated. One that is validated already is turned away.
    pub fn validate(self) {
        if let Knock::Quic(incoming) = self.knock
            && let Err(validated) = incoming.retry()
        {
            validated.into_incoming().refuse();
        }
    }

    /// Turns it away.
    pub fn refuse(self) {
        if let Knock::Quic(incoming) = self.knock {
            incoming.refuse();
        }
    }

    /// Shakes hands. A node without a certificate of our CA is an error.
    pub async fn link(self) -> Result<Link> {
        let Self { thread, knock } = self;
        match knock {
            Knock::Quic(incoming) => {
                let who = incoming.remote_address();
                let connecting = incoming.accept().map_err(|e| Error::connection(who, &e))?;
                let connection = timeout(HANDSHAKE_PATIENCE, connecting)
                    .await
                    .map_err(|_| Error::TimedOut { who: who.to_string() })?
                    .map_err(|e| Error::connection(who, &e))?;
                Ok(QuicLink::new(connection, thread, None)?.into())
            }
            Knock::Tcp { socket, address, listener } => {
                let config = Arc::clone(&listener.config);
                let place = (address, thread);
                Ok(TcpLink::accept(socket, place, config, &listener.closing).await?.into())
            }
        }
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
