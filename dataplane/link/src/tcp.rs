//! Links over TCP with TLS 1.3: for networks that block or throttle UDP, and for paths on which they move more.
//!
//! A link is the node at the other end rather than one connection: each control stream has a connection of its own. One
//! on which both ends agreed so becomes a **lane**: the TLS session's keys are taken over by our own record layer
//! ([`records`]), and chunks follow each other on it ([`lane`]).

mod lane;
mod records;
mod session;

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use ds_domain::ids::NodeId;
use ds_proto::v1::StreamOpen;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    runtime::Handle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

pub(crate) use self::lane::Arrival;
use self::session::Session;
use crate::{
    Control, Error, Peer, Result,
    control::unwanted,
    endpoint::{Dialer, HANDSHAKE_PATIENCE},
    framing::SIGN_OF_LIFE,
    link::Driver,
    quic::{IDLE_TIMEOUT, KEEP_ALIVE},
    routes::Routes,
    threads::Thread,
};

const READ_BYTES: usize = 16 << 10;
/// A connection on which nothing was asked for so long may have been given up by the other end.
const FRESH: Duration = Duration::from_secs(5);

/// The connection that became a lane, and what drives it.
struct Lane {
    writing: lane::Writing,
    driver: Handle,
}

/// A node that is reached over TCP.
pub(crate) struct TcpLink {
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
    /// How long a packet took there and back when it was made.
    pub(crate) round_trip: Duration,
    thread: Thread,
    pub(crate) routes: Arc<Routes>,
    /// At the end that dialled.
    dialer: Option<Dialer>,
    /// No stream has begun on it yet.
    unused: Mutex<Option<(Connection, Instant)>>,
    lane: OnceLock<Lane>,
    /// Ends all that belongs to it. At the end that was dialled, its one connection ends it too.
    over: CancellationToken,
}

impl TcpLink {
    /// Dials `node`.
    pub(crate) async fn dial(dialer: &Dialer, address: SocketAddr, node: NodeId) -> Result<Self> {
        let thread = Thread::start().map_err(|source| Error::Bind { address, source })?;
        let over = CancellationToken::new();
        let (connection, peer) = connect(dialer, &thread, (address, node), over.child_token()).await?;
        Ok(Self::new(peer, address, thread, Some(dialer.clone()), connection, over))
    }

    /// Shakes hands with a node that dialled. It ends with `endpoint`.
    pub(crate) async fn accept(
        socket: std::net::TcpStream,
        (address, thread): (SocketAddr, Thread),
        config: Arc<rustls::ServerConfig>,
        endpoint: &CancellationToken,
    ) -> Result<Self> {
        let shaking = async move { session::accept(TcpStream::from_std(socket)?, config).await };
        let (session, peer) = within_patience(&thread, shaking, &address.to_string()).await?;
        let over = endpoint.child_token();
        let connection = Connection::new(session, over.clone());
        Ok(Self::new(peer, address, thread, None, connection, over))
    }

    fn new(
        peer: Peer,
        address: SocketAddr,
        thread: Thread,
        dialer: Option<Dialer>,
        connection: Connection,
        over: CancellationToken,
    ) -> Self {
        let round_trip = session::round_trip(&connection.session);
        let unused = Mutex::new(Some((connection, Instant::now())));
        Self {
            peer,
            address,
            round_trip,
            thread,
            routes: Arc::default(),
            dialer,
            unused,
            lane: OnceLock::new(),
            over,
        }
    }

    pub(crate) fn dialer(&self) -> Option<&Dialer> {
        self.dialer.as_ref()
    }

    /// Begins a stream, on a connection of its own.
    pub(crate) async fn open(&self, first: &StreamOpen) -> Result<Control> {
        let mut control = Control::over_tcp(self.connection().await?, self.peer);
        control.send.send(first).await?;
        Ok(control)
    }

    pub(crate) fn keep_alive(&self, control: &mut Control) {
        control.keep_alive(&self.thread);
    }

    async fn connection(&self) -> Result<Connection> {
        if self.over.is_cancelled() {
            return Err(closed(self.peer));
        }
        match (self.take_unused(), &self.dialer) {
            (Some((connection, since)), _) if since.elapsed() < FRESH => Ok(connection),
            (_, Some(dialer)) => {
                let target = (self.address, self.peer.node);
                Ok(connect(dialer, &self.thread, target, self.over.child_token()).await?.0)
            }
            (_, None) => Err(unwanted(self.peer)),
        }
    }

    /// The stream that the other end opened; there is one. Then waits for the link's end.
    pub(crate) async fn accept_stream(&self) -> Result<Control> {
        if let Some((connection, _)) = self.take_unused() {
            return Ok(Control::over_tcp(connection, self.peer));
        }
        self.over.cancelled().await;
        Err(closed(self.peer))
    }

    fn take_unused(&self) -> Option<(Connection, Instant)> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What drives the lane, or else the link's streams.
    pub(crate) fn driver(&self) -> Handle {
        self.lane.get().map_or_else(|| self.thread.handle(), |lane| lane.driver.clone())
    }

    /// Whether chunks go over it.
    pub(crate) fn is_lane(&self) -> bool {
        self.lane.get().is_some()
    }

    /// Makes the connection of `control` a lane: both ends have said on it that only chunks follow. From then on the caller's runtime
    /// drives it, or this link's thread.
    pub(crate) fn become_lane(&self, control: Control, driver: Driver) -> Result<()> {
        let connection = control.into_connection();
        let connection =
            connection.ok_or_else(|| Error::unusable("the lane", "more than chunks came on it"))?;
        let Connection { session, guard, .. } = connection;
        let (socket, secrets) = session::dissolve(*session)?;
        let unusable = |e: &dyn std::fmt::Display| Error::unusable("the lane", e);
        let driver = match driver {
            Driver::Here => Handle::current(),
            Driver::Apart => self.thread.handle(),
        };
        session::wait_for_room(&socket).map_err(|e| unusable(&e))?;
        let socket = {
            let _inside = driver.enter();
            socket.into_std().and_then(TcpStream::from_std).map_err(|e| unusable(&e))?
        };
        let (writing, reader) = lane::split(socket, secrets).map_err(|e| unusable(&e))?;
        let lane = Lane { writing: Arc::clone(&writing), driver: driver.clone() };
        if self.lane.set(lane).is_err() {
            return Err(unusable(&"the link is one already"));
        }
        let (peer, routes, over) = (self.peer, Arc::clone(&self.routes), self.over.clone());
        // It ends with `over`, which ends with the link.
        drop(driver.spawn(async move {
            lane::read(reader, &writing, peer, routes, over).await;
            // The other half of the socket.
            *writing.lock().await = None;
            drop(guard);
        }));
        Ok(())
    }

    /// Sends a chunk over the lane, behind those that are on their way.
    pub(crate) async fn send_chunk(&self, header: &[u8], payload: &Bytes) -> Result<()> {
        let lane =
            self.lane.get().ok_or_else(|| Error::unusable("the link", "no lane was agreed on over TCP"))?;
        let sending = async {
            match &mut *lane.writing.lock().await {
                Some(writer) => writer.send(header, payload).await,
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        let sent = tokio::select! {
            biased;
            () = self.over.cancelled() => return Err(closed(self.peer)),
            sent = sending => sent,
        };
        sent.map_err(|error| {
            self.over.cancel();
            lost(self.peer, &error)
        })
    }

    pub(crate) async fn closed(&self) -> Error {
        self.over.cancelled().await;
        closed(self.peer)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.over.is_cancelled()
    }

    pub(crate) fn close(&self) {
        self.over.cancel();
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

async fn connect(
    dialer: &Dialer,
    thread: &Thread,
    (address, node): (SocketAddr, NodeId),
    over: CancellationToken,
) -> Result<(Connection, Peer)> {
    let (name, config) = (Peer::dns_name(node), dialer.tls());
    let shaking = async move { session::connect(address, &name, config).await };
    let (session, peer) = within_patience(thread, shaking, &format!("{node} at {address}")).await?;
    Ok((Connection::new(session, over), peer))
}

/// On the link's thread, which from then on has the socket.
async fn within_patience(
    thread: &Thread,
    shaking: impl Future<Output = io::Result<(Session, Peer)>> + Send + 'static,
    who: &str,
) -> Result<(Session, Peer)> {
    let shaking = thread.spawn_owned(timeout(HANDSHAKE_PATIENCE, shaking));
    match shaking.await {
        Ok(Ok(shaken)) => shaken.map_err(|e| Error::tcp(who, &e)),
        Ok(Err(_)) => Err(Error::TimedOut { who: who.to_owned() }),
        Err(_) => Err(Error::Lost { who: who.to_owned(), reason: "its thread has ended".into() }),
    }
}

/// A TLS session that nobody has split. When it, or the last of its halves, is dropped, `over` is cancelled.
#[derive(Debug)]
pub(crate) struct Connection {
    session: Box<Session>,
    over: CancellationToken,
    guard: Arc<DropGuard>,
}

impl Connection {
    fn new(session: Session, over: CancellationToken) -> Self {
        let guard = Arc::new(over.clone().drop_guard());
        Self { session: Box::new(session), over, guard }
    }

    pub(crate) fn split(self) -> (Outgoing, Incoming) {
        let Self { session, over, guard } = self;
        let (reading, writing) = tokio::io::split(*session);
        let writing =
            Arc::new(tokio::sync::Mutex::new(Writing { half: writing, within: false, ended: false }));
        let outgoing = Outgoing { writing, over: over.clone(), guard: Arc::clone(&guard), beating: None };
        (outgoing, Incoming { half: reading, over, alive_until: None, _guard: guard })
    }

    /// The two that came of one [`Connection::split`]; nothing if it was kept alive.
    pub(crate) fn join(outgoing: Outgoing, incoming: Incoming) -> Option<Self> {
        let Outgoing { writing, over, guard, beating: None } = outgoing else { return None };
        let half = Arc::into_inner(writing)?.into_inner().half;
        Some(Self { session: Box::new(incoming.half.unsplit(half)), over, guard })
    }
}

/// The writing half of a connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    writing: Arc<tokio::sync::Mutex<Writing>>,
    over: CancellationToken,
    guard: Arc<DropGuard>,
    /// Shows that this end is there.
    beating: Option<AbortOnDropHandle<()>>,
}

impl Outgoing {
    pub(crate) async fn write(&mut self, bytes: &[u8], peer: Peer) -> Result<()> {
        self.unless_over(peer, async { self.writing.lock().await.write(bytes).await }).await
    }

    pub(crate) async fn finish(&mut self, peer: Peer) -> Result<()> {
        self.unless_over(peer, async { self.writing.lock().await.finish().await }).await
    }

    async fn unless_over(&self, peer: Peer, writing: impl Future<Output = io::Result<()>>) -> Result<()> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(closed(peer)),
            written = writing => written.map_err(|e| lost(peer, &e)),
        }
    }

    pub(crate) fn reset(&self) {
        self.over.cancel();
    }

    pub(crate) fn keep_alive(&mut self, thread: &Thread) {
        self.beating.get_or_insert_with(|| thread.spawn_owned(beat(Arc::clone(&self.writing))));
    }
}

/// Shows that this end is there, for as long as it may still say something.
async fn beat(writing: Arc<tokio::sync::Mutex<Writing>>) {
    loop {
        sleep(KEEP_ALIVE).await;
        let mut writing = writing.lock().await;
        if writing.ended || writing.write(&SIGN_OF_LIFE).await.is_err() {
            return;
        }
    }
}

#[derive(Debug)]
struct Writing {
    half: WriteHalf<Session>,
    /// Within a message. Whoever finds it so after the fact must not go on.
    within: bool,
    ended: bool,
}

impl Writing {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if std::mem::replace(&mut self.within, true) {
            return Err(io::Error::other("a message was broken off"));
        }
        self.half.write_all(bytes).await?;
        self.half.flush().await?;
        self.within = false;
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.ended = true;
        self.half.shutdown().await
    }
}

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct Incoming {
    half: ReadHalf<Session>,
    over: CancellationToken,
    /// Where the other end shows that it is there: when its silence has lasted too long.
    alive_until: Option<Instant>,
    _guard: Arc<DropGuard>,
}

impl Incoming {
    /// `None` at the end that the other end has said.
    pub(crate) async fn read(&mut self, peer: Peer) -> Result<Option<Bytes>> {
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        let read = tokio::select! {
            biased;
            () = self.over.cancelled() => return Err(closed(peer)),
            // First, since what came while nobody read was no silence.
            read = self.half.read_buf(&mut bytes) => read.map_err(|e| lost(peer, &e))?,
            () = moment(self.alive_until) => {
                self.over.cancel();
                return Err(Error::TimedOut { who: peer.to_string() });
            }
        };
        if self.alive_until.is_some() {
            self.keep_alive();
        }
        Ok((read > 0).then(|| bytes.freeze()))
    }

    pub(crate) fn keep_alive(&mut self) {
        self.alive_until = Some(Instant::now() + IDLE_TIMEOUT);
    }
}

/// Never completes where there is none.
async fn moment(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// The link was closed here, or its connection has ended.
fn closed(peer: Peer) -> Error {
    Error::Lost { who: peer.to_string(), reason: "its connection has ended".into() }
}

fn lost(peer: Peer, error: &io::Error) -> Error {
    Error::tcp(peer, error)
}
