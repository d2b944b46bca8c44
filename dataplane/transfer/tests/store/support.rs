//! A hub's keys, a store and a runner, each on a pool of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand;
use ds_domain::ids::{NodeId, SnapshotId, TaskId, VolumeId};
use ds_link::{Ca, Endpoint, Identity, Link, Role};
use ds_proto::v1::{Direction, Receipt, SignedReceipt, SignedTicket, Ticket};
use ds_transfer::{Error, Store, StoreClient, StoreConfig, ticket::TicketSigner};
use ds_zfs::{SnapshotGuid, Volumes};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const MIB: u64 = 1 << 20;

/// Enough for a test with some tens of megabytes.
const POOL_BYTES: u64 = 512 * MIB;

/// A pool in a file, destroyed at the end.
pub(crate) struct Pool {
    name: String,
    folder: TempDir,
}

impl Pool {
    pub(crate) async fn create(size_bytes: u64) -> Self {
        let name = format!("dsxfer{}", &Uuid::new_v4().simple().to_string()[..12]);
        let folder = tempfile::tempdir().unwrap();
        ds_zfs::create_file_pool(&name, &folder.path().join("pool"), size_bytes).await.unwrap();
        Self { name, folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn root(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    pub(crate) async fn volumes(&self, name: &str) -> Volumes {
        Volumes::open(&self.root(name), &self.folder().join(name)).await.unwrap()
    }

    /// Names of all filesystems and snapshots below `dataset`.
    pub(crate) fn list(&self) -> Vec<String> {
        let output = Command::new("zfs")
            .args(["list", "-H", "-r", "-t", "filesystem,snapshot", "-o", "name", &self.name])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What the test left running lets go of it in its own time.
        for _ in 0..100 {
            let output = Command::new("zpool").args(["destroy", "-f", &self.name]).output();
            if output.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("pool {} could not be destroyed", self.name);
    }
}

/// A hub's secrets and one store that runs.
pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) signer: TicketSigner,
    pub(crate) pool: Pool,
    pub(crate) store: Identity,
    pub(crate) address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_pool_of(POOL_BYTES).await
    }

    pub(crate) async fn with_pool_of(size_bytes: u64) -> Self {
        let ca = Ca::create().unwrap();
        let store = ca.issue(Role::Store, NodeId(Uuid::new_v4())).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let pool = Pool::create(size_bytes).await;
        let signer = TicketSigner::create().unwrap();
        let mut world = Self { ca, signer, pool, store, address, running: None };
        world.start_store().await;
        world
    }

    pub(crate) async fn start_store(&mut self) {
        let config = StoreConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            root: self.pool.root("store"),
            state_dir: self.pool.folder().join("state"),
            identity: self.store.clone(),
            ticket_public_key: self.signer.public_key(),
        };
        let store = Store::build(config).await.unwrap();
        self.address = store.local_addr().unwrap();
        let stop = CancellationToken::new();
        self.running = Some((stop.clone(), tokio::spawn(store.run(stop))));
    }

    pub(crate) async fn stop_store(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap();
    }

    /// Ends the store with nothing cleaned up, as a crash does.
    pub(crate) async fn kill_store(&mut self) {
        let (_, running) = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
    }

    pub(crate) fn hub(&self) -> Identity {
        self.ca.issue(Role::Hub, NodeId(Uuid::new_v4())).unwrap()
    }

    /// The hub's end.
    pub(crate) fn client(&self) -> StoreClient {
        StoreClient::new(Endpoint::client(&self.hub()).unwrap(), self.address, self.store.peer().node)
    }

    /// What lies on the store's pool, seen from beside it.
    pub(crate) async fn stored(&self) -> Volumes {
        Volumes::open(&self.pool.root("store"), &self.pool.folder().join("state/mnt")).await.unwrap()
    }

    pub(crate) async fn runner(&self) -> Runner {
        let identity = self.ca.issue(Role::Runner, NodeId(Uuid::new_v4())).unwrap();
        let pool = Pool::create(POOL_BYTES).await;
        let volumes = pool.volumes("runner").await;
        let endpoint = Endpoint::client(&identity).unwrap();
        Runner { identity, pool, volumes, endpoint }
    }

    pub(crate) fn ticket(&self, runner: &Runner, direction: Direction, what: What) -> Ticket {
        let now_ms = now_ms();
        Ticket {
            id: Uuid::new_v4().into_bytes().to_vec(),
            peer: runner.identity.peer().node.to_bytes(),
            store: self.store.peer().node.to_bytes(),
            volume: what.volume.to_bytes(),
            snapshot: what.snapshot.to_bytes(),
            base: what.base.map(SnapshotId::to_bytes).unwrap_or_default(),
            direction: direction.into(),
            issued_ms: now_ms,
            expires_ms: now_ms + 60_000,
        }
    }

    pub(crate) async fn push(&self, runner: &Runner, what: What) -> Result<(NodeId, Receipt), Error> {
        let ticket = self.signer.sign(&self.ticket(runner, Direction::Push, what));
        let link = runner.link(self).await;
        let receipt = runner.push(&link, ticket, what).await?;
        Ok(ds_transfer::receipt::verify(self.ca.certificate_pem(), &receipt).unwrap())
    }

    pub(crate) async fn pull(&self, runner: &Runner, what: What) -> Result<Receipt, Error> {
        let ticket = self.signer.sign(&self.ticket(runner, Direction::Pull, what));
        let link = runner.link(self).await;
        runner.pull(&link, ticket, what).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.running {
            stop.cancel();
        }
    }
}

/// One snapshot, and what it is sent from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct What {
    pub(crate) volume: VolumeId,
    pub(crate) snapshot: SnapshotId,
    pub(crate) base: Option<SnapshotId>,
}

pub(crate) struct Runner {
    pub(crate) identity: Identity,
    pub(crate) pool: Pool,
    pub(crate) volumes: Volumes,
    pub(crate) endpoint: Endpoint,
}

impl Runner {
    pub(crate) async fn link(&self, world: &World) -> Link {
        self.endpoint.connect(world.address, world.store.peer().node).await.unwrap()
    }

    pub(crate) async fn push(
        &self,
        link: &Link,
        ticket: SignedTicket,
        what: What,
    ) -> Result<SignedReceipt, Error> {
        let cancel = CancellationToken::new();
        let What { volume, snapshot, .. } = what;
        ds_transfer::push(link, &self.volumes, ticket, volume, snapshot, |_| {}, &cancel).await
    }

    pub(crate) async fn pull(&self, link: &Link, ticket: SignedTicket, what: What) -> Result<Receipt, Error> {
        let cancel = CancellationToken::new();
        let What { volume, snapshot, .. } = what;
        ds_transfer::pull(link, &self.volumes, ticket, volume, snapshot, |_| {}, &cancel).await
    }

    /// A volume with a first snapshot, both here and at the store.
    pub(crate) async fn shared_volume(&self, world: &World) -> What {
        let what = What { volume: VolumeId(Uuid::new_v4()), snapshot: new_snapshot(), base: None };
        world.client().create_volume(what.volume, what.snapshot).await.unwrap();
        world.pull(self, what).await.unwrap();
        what
    }

    /// What a task does: clone, write, snapshot.
    pub(crate) async fn work(&self, base: What, files: &[(&str, &[u8])]) -> (What, SnapshotGuid) {
        let task = TaskId(Uuid::new_v4());
        let folder = self.volumes.clone_for_task(task, base.volume, base.snapshot).await.unwrap();
        for (path, content) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let snapshot = new_snapshot();
        let guid = self.volumes.snapshot_task(task, base.volume, snapshot).await.unwrap();
        (What { volume: base.volume, snapshot, base: Some(base.snapshot) }, guid)
    }
}

pub(crate) fn new_snapshot() -> SnapshotId {
    SnapshotId(Uuid::new_v4())
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Bytes that no pool compresses.
pub(crate) fn noise(length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    rand::fill(&mut bytes).unwrap();
    bytes
}

/// Waits until this process has no `zfs` child: those that were ended are reaped in their own time.
pub(crate) async fn no_zfs_process_is_left() {
    while zfs_children() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn zfs_children() -> usize {
    let our_id = std::process::id().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // pid (comm) state ppid ...
    let ours = |stat: &String| {
        let (head, tail) = stat.rsplit_once(')').unwrap();
        head.ends_with("(zfs") && tail.split_whitespace().nth(1) == Some(our_id.as_str())
    };
    stats.filter(ours).count()
}
