//! The store: keeps volumes, serves transfers to peers with a ticket, and does for the hub what happens at the data.
//!
//! [`Store::build`] opens the pool and the socket, [`Store::run`] accepts links until it is told to stop. Each link has a
//! task, each stream on it another; all end before `run` returns. What runs at once is bounded, for all nodes together and
//! for each: handshakes, links, control streams per link (64), and transfers. Only nodes that the hub knows are let in.

mod answers;
mod claims;
mod files;
mod import;
mod links;
mod members;
mod peers;
mod reading;
mod transfers;
mod tree;
mod trees;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use ds_link::{Endpoint, Identity, Role};
use ds_zfs::Volumes;
use tokio_util::sync::CancellationToken;

use self::{claims::Claims, peers::Peers, reading::ReadingClones, trees::Paces};
use crate::{Error, Result, clock::HubClock, joins::Joins, metrics, ticket::TicketVerifier};

/// What a store is made of.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where links arrive (UDP).
    pub listen: SocketAddr,
    /// The dataset that it owns, such as `pool/store`.
    pub root: String,
    /// Its folder: the hub's clock, the nodes that it knows, what is under way, and mountpoints.
    pub state_dir: PathBuf,
    /// Its certificate, with role store; or with role runner, for a node that keeps trees of others.
    pub identity: Identity,
    /// Verifies the hub's tickets: Ed25519.
    pub ticket_public_key: [u8; 32],
}

/// A node that keeps volumes.
pub struct Store {
    endpoint: Endpoint,
    node: Arc<Node>,
}

/// What all streams of all links share.
struct Node {
    identity: Identity,
    volumes: Volumes,
    clock: HubClock,
    tickets: TicketVerifier,
    reading: ReadingClones,
    incoming: Claims,
    joins: Joins,
    peers: Peers,
    paces: Paces,
    stopping: CancellationToken,
}

impl Store {
    /// Opens the pool, drops what an earlier process left half done, and listens.
    pub async fn build(config: StoreConfig) -> Result<Self> {
        let StoreConfig { listen, root, state_dir, identity, ticket_public_key } = config;
        if identity.peer().role == Role::Hub {
            let reason = format!("{} is neither a store nor a runner, and holds no data", identity.peer());
            return Err(ds_link::Error::Unusable { what: "the certificate", reason }.into());
        }
        metrics::describe();
        let (mounts, incoming) = (state_dir.join("mnt"), state_dir.join("incoming"));
        make_folder(&mounts)?;
        make_folder(&incoming)?;
        let volumes = Volumes::open(&root, &mounts).await?;
        collect_reading_clones(&volumes).await?;
        volumes.collect_guards().await?;
        let incoming = Claims::open(incoming);
        incoming.collect_unfinished(&volumes).await?;
        let endpoint = Endpoint::bind(listen, &identity)?;
        let node = Node {
            clock: HubClock::load(state_dir.join("clock")),
            tickets: TicketVerifier::new(ticket_public_key),
            reading: ReadingClones::new(volumes.clone()),
            incoming,
            joins: Joins::default(),
            paces: Paces::default(),
            peers: Peers::load(state_dir.join("nodes")),
            stopping: CancellationToken::new(),
            identity,
            volumes,
        };
        Ok(Self { endpoint, node: Arc::new(node) })
    }

    /// Where links arrive.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }

    /// Serves until `stop` is cancelled. Returns when all that was under way has ended and left nothing half done.
    pub async fn run(self, stop: CancellationToken) {
        let Self { endpoint, node } = self;
        let serving = links::serve(&endpoint, &node);
        let collecting = node.reading.collect_idle(&node.stopping);
        let abandoned = node.incoming.collect_abandoned(&node.volumes, &node.stopping);
        let stopping = async {
            stop.cancelled().await;
            node.stopping.cancel();
            endpoint.close("the store is stopping");
        };
        tokio::join!(serving, collecting, abandoned, stopping);
        endpoint.closed().await;
        node.reading.drop_all().await;
    }
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::File {
        action: "create the folder",
        path: path.display().to_string(),
        source,
    })
}

/// Nobody reads when a store starts: what is mounted for reading is left over.
async fn collect_reading_clones(volumes: &Volumes) -> Result<()> {
    for snapshot in volumes.reading_clones().await? {
        volumes.drop_reading_clone(snapshot).await?;
    }
    Ok(())
}
