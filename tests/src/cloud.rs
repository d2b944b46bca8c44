//! A store and two nodes that move snapshots to and from it, each on a pool of its own; and the hub's keys. There is no hub:
//! a test is it.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Ca, Endpoint, Identity, Role, Transports};
use ds_proto::v1::{Direction, SignedTicket, Ticket};
use ds_transfer::{StoreClient, ticket::TicketSigner};
use ds_zfs::Volumes;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    FilePool, Relay, free_tcp_port,
    mover::{MoveSpec, StoreSpec, Way},
    run,
    worker::Worker,
};

/// Of each pool, unless more is asked for; the files are sparse.
const POOL_MIB: u64 = 1_536;

/// How long a ticket is good for.
const TICKET_MS: i64 = 60_000;

/// Tries to take the room of a pool that is written to, each with a MiB less.
const FILL_TRIES: u64 = 20;

/// Lines of a log that a failure shows.
const LAST_WORDS: usize = 15;

/// One snapshot, and what it is sent from when it is pushed.
#[derive(Debug, Clone, Copy)]
pub struct What {
    /// The volume.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The ticket says so; nothing for a full stream.
    pub base: Option<SnapshotId>,
}

/// The whole arrangement.
pub struct Cloud {
    // Fields drop in this order: processes before the pools that they use.
    store: Option<Worker>,
    /// Where snapshots are made and pushed from.
    pub author: Node,
    /// Where they are pulled to.
    pub replica: Node,
    /// The store's pool, seen from beside it.
    pub stored: Node,
    /// Where the store listens.
    pub address: SocketAddr,
    /// Of the hub.
    pub ca: Ca,
    signer: TicketSigner,
    folder: TempDir,
}

/// A pool with a dataset and who owns it.
pub struct Node {
    /// Its pool.
    pub pool: FilePool,
    /// What it owns there.
    pub volumes: Volumes,
    /// Who it is.
    pub id: NodeId,
    /// With its identity, its mountpoints, its log.
    folder: PathBuf,
}

impl Node {
    async fn create(ca: &Ca, role: Role, mebibytes: u64, folder: PathBuf) -> Result<Self> {
        let pool = FilePool::create(mebibytes)?;
        let id = NodeId(Uuid::new_v4());
        ca.issue(role, id)?.save(&folder)?;
        // It takes all room when the disk is to be full.
        run("zfs", &["create", &pool.dataset("ballast")])?;
        let volumes = Volumes::open(&pool.dataset("data"), &folder.join("mnt")).await?;
        Ok(Self { pool, volumes, id, folder })
    }

    /// Its own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves about so many bytes free.
    pub fn fill(&self, leave: u64) -> Result<()> {
        let mut filled = Ok(());
        for missed in 0..FILL_TRIES {
            let free = run("zfs", &["get", "-Hp", "-o", "value", "available", self.pool.name()])?;
            let free: u64 = free.trim().parse()?;
            // Meanwhile others write as well.
            filled = self.reserve(&free.saturating_sub(leave + (missed << 20)).to_string());
            if filled.is_ok() {
                break;
            }
        }
        filled
    }

    /// Takes back what [`Node::fill`] did.
    pub fn make_room(&self) -> Result<()> {
        self.reserve("none")
    }

    fn reserve(&self, bytes: &str) -> Result<()> {
        run("zfs", &["set", &format!("reservation={bytes}"), &self.pool.dataset("ballast")]).map(drop)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Cloud {
    /// Makes pools and keys, and starts the store.
    pub async fn start(seed: u64) -> Result<Self> {
        Self::with_pools_of(POOL_MIB, seed).await
    }

    /// The same with pools of so many mebibytes each.
    pub async fn with_pools_of(mebibytes: u64, seed: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("torture-{seed}-")).tempdir()?;
        let ca = Ca::create()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let at = |name| folder.path().join(name);
        let mut cloud = Self {
            store: None,
            author: Node::create(&ca, Role::Runner, mebibytes, at("author")).await?,
            replica: Node::create(&ca, Role::Runner, mebibytes, at("replica")).await?,
            stored: Node::create(&ca, Role::Store, mebibytes, at("store")).await?,
            address,
            ca,
            signer: TicketSigner::create()?,
            folder,
        };
        cloud.start_store().await?;
        Ok(cloud)
    }

    /// Starts the store where it always is, and waits until it listens.
    pub async fn start_store(&mut self) -> Result<()> {
        let spec = StoreSpec {
            identity: self.stored.folder.clone(),
            root: self.stored.pool.dataset("data"),
            state_dir: self.stored.folder.clone(),
            listen: self.address,
            ticket_public_key: self.signer.public_key(),
        };
        let mut store = Worker::start("store", &spec, &self.stored.log())?;
        store.ready().await?;
        self.store = Some(store);
        Ok(())
    }

    /// Ends it as `kill -9` does.
    pub async fn kill_store(&mut self) -> Result<()> {
        self.store.take().context("the store runs")?.kill().await
    }

    /// Memory of the store's process in bytes.
    pub fn store_memory(&self) -> Result<u64> {
        self.store.as_ref().context("the store runs")?.memory()
    }

    /// A path to the store.
    pub async fn path(&self, seed: u64) -> Result<Relay> {
        Relay::to(self.address, seed).await
    }

    /// The hub's end of the store.
    pub fn hub(&self) -> Result<StoreClient> {
        let identity: Identity = self.ca.issue(Role::Hub, NodeId(Uuid::new_v4()))?;
        Ok(StoreClient::new(Endpoint::client(&identity)?, self.address, self.stored.id))
    }

    /// Which node dials, and which one receives.
    pub fn ends(&self, way: Way) -> (&Node, &Node) {
        match way {
            Way::Push => (&self.author, &self.stored),
            Way::Pull => (&self.replica, &self.replica),
        }
    }

    /// Lets `peer` move a snapshot once.
    pub fn ticket(&self, peer: NodeId, way: Way, what: What) -> Result<SignedTicket> {
        let direction = if way == Way::Push { Direction::Push } else { Direction::Pull };
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now_ms = i64::try_from(since.as_millis())?;
        Ok(self.signer.sign(&Ticket {
            id: Uuid::new_v4().into_bytes().to_vec(),
            peer: peer.to_bytes(),
            store: self.stored.id.to_bytes(),
            volume: what.volume.to_bytes(),
            snapshot: what.snapshot.to_bytes(),
            base: what.base.map(SnapshotId::to_bytes).unwrap_or_default(),
            direction: direction.into(),
            issued_ms: now_ms,
            expires_ms: now_ms + TICKET_MS,
        }))
    }

    /// Starts to move a snapshot over the path, with a fresh ticket.
    pub fn mover(&self, way: Way, what: What, path: &Relay) -> Result<Worker> {
        self.mover_over(Transports::Auto, way, what, path)
    }

    /// The same over what may be used only.
    pub fn mover_over(&self, over: Transports, way: Way, what: What, path: &Relay) -> Result<Worker> {
        let (client, _) = self.ends(way);
        let ticket = self.ticket(client.id, way, what)?;
        let spec = MoveSpec {
            way,
            identity: client.folder.clone(),
            root: client.pool.dataset("data"),
            mounts: client.folder.join("mnt"),
            address: path.address(),
            transports: over.to_string(),
            store: self.stored.id,
            volume: what.volume,
            snapshot: what.snapshot,
            ticket: ticket.payload,
            signature: ticket.signature,
        };
        Worker::start("move", &spec, &client.log())
    }

    /// All three.
    pub fn nodes(&self) -> [&Node; 3] {
        [&self.author, &self.stored, &self.replica]
    }

    /// Where everything lies that is no pool.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The ends of the logs, for a failure.
    pub fn last_words(&self) -> String {
        let last_words = |node: &Node| {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
            format!("---- {}\n{}\n", node.log().display(), last.join("\n"))
        };
        self.nodes().map(last_words).concat()
    }
}

/// Free for UDP and TCP: a store may listen on both.
fn free_port() -> Result<u16> {
    loop {
        let port = free_tcp_port()?;
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}
