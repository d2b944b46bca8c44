//! Everything that may happen below a node's root dataset.
//!
//! Nothing is remembered between calls but locks: each looks at the pool, so that each can be repeated after a crash.

mod advance;
mod chains;
mod claims;
mod clones;
mod guards;
mod keeping;
mod partials;
mod reserve;
mod streams;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, Weak, atomic::AtomicBool},
};

use ds_domain::{
    TreeName,
    ids::{SnapshotId, VolumeId},
};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Error, Failure, Features, LocalTree, Result, Snapshot, SnapshotGuid, command,
    command::zfs,
    names::{Layout, Place, snapshot_name},
    pool,
    topology::{Filesystem, Listing, PROPERTIES, Topology},
};

pub(crate) use claims::{Claim, Claims};
use guards::Forsaken;
pub use guards::Guard;
pub use keeping::Bookmark;
pub use partials::Partial;
pub(crate) use partials::{abandon, decode, token_of};
pub(crate) use streams::destroy_half_received;

/// A node's volumes. Cheap to clone.
///
/// Calls for one volume that change which filesystem is where wait for each other; all others run side by side.
#[derive(Debug, Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    features: Features,
    locks: Mutex<HashMap<VolumeId, Weak<tokio::sync::Mutex<()>>>>,
    /// What is being received.
    receiving: Claims,
    /// Holds of transfers that were dropped.
    forsaken: Mutex<Vec<Forsaken>>,
    /// Whether the reserve was given up to let something finish in a full pool.
    reserve_lent: AtomicBool,
}

impl Volumes {
    /// Opens the root dataset, such as `tank/dotstream`, and makes it and its folders where they are missing; clones are
    /// mounted below `mount_dir`. Fails with what to do where ZFS or the pool is missing.
    pub async fn open(root: &str, mount_dir: &Path) -> Result<Self> {
        let layout = Layout::new(root, mount_dir)?;
        let features = Features::probe().await?;
        if !pool::pool_exists(layout.pool()).await? {
            return Err(Error::PoolMissing { pool: layout.pool().to_owned() });
        }
        // A root that was made by hand keeps its properties: those that matter are set on our own folders.
        if layout.root() != layout.pool() {
            create_filesystem(layout.root(), &["-p", "-o", "mountpoint=none"]).await?;
        }
        for folder in layout.folders() {
            // Reading must not change a filesystem: what changed since its tip cannot be received onto.
            create_filesystem(&folder, &["-o", "mountpoint=none", "-o", "atime=off"]).await?;
        }
        tracing::info!(zfs.root = root, zfs.version = features.version, "opened volumes");
        let inner = Inner {
            layout,
            features,
            locks: Mutex::default(),
            receiving: Claims::default(),
            forsaken: Mutex::default(),
            reserve_lent: AtomicBool::default(),
        };
        let volumes = Self { inner: Arc::new(inner) };
        volumes.set_reserve().await?;
        Ok(volumes)
    }

    /// What this machine's ZFS can do.
    pub fn features(&self) -> &Features {
        &self.inner.features
    }

    /// The tree of this name among those that lie here under their owners' names; it need not exist.
    pub fn tree(&self, name: &TreeName) -> LocalTree {
        let root = self.inner.layout.tree(name);
        LocalTree::within(root, self.inner.features.clone(), self.inner.receiving.clone())
    }

    /// Makes a volume with a first, empty snapshot, unless it is there; gives that snapshot's GUID.
    pub async fn create(&self, volume: VolumeId, first: SnapshotId) -> Result<SnapshotGuid> {
        let _lock = self.lock(volume).await;
        self.begin(volume, first, None).await
    }

    /// Makes a volume whose first snapshot has what snapshot `base` of the volume `source` has, unless it is there; gives the
    /// first snapshot's GUID. The two share their blocks, so that it takes no time, and `source` cannot be dropped before it.
    pub async fn create_from(
        &self,
        volume: VolumeId,
        first: SnapshotId,
        source: VolumeId,
        base: SnapshotId,
    ) -> Result<SnapshotGuid> {
        // An advance of the source would move the base to another filesystem.
        let _source = self.lock(source).await;
        let _lock = if volume == source { None } else { Some(self.lock(volume).await) };
        let topology = self.topology_of(source).await?;
        let from = topology.holding(source, base);
        let from = from.ok_or(Error::SnapshotMissing { volume: source, snapshot: base })?;
        self.begin(volume, first, Some(&snapshot_name(&from.name, base))).await
    }

    /// Makes the main line, empty or as a clone of a snapshot, and takes its first snapshot.
    async fn begin(
        &self,
        volume: VolumeId,
        first: SnapshotId,
        cloned_from: Option<&str>,
    ) -> Result<SnapshotGuid> {
        let main = self.name(Place::Main(volume));
        let topology = self.topology_of(volume).await?;
        if let Some(here) = topology.holding(volume, first) {
            return self.guid(&here.name, first).await;
        }
        match topology.filesystem(Place::Main(volume)) {
            Some(existing) if existing.tip().is_some() => {
                let command = format!("create volume {volume}");
                return Err(Error::Exists(Failure {
                    command,
                    said: "it begins with another snapshot".to_owned(),
                }));
            }
            Some(_) => {}
            None => match cloned_from {
                Some(snapshot) => zfs(&["clone", snapshot, &main]).await.map(drop)?,
                None => create_filesystem(&main, &[]).await?,
            },
        }
        zfs(&["snapshot", &snapshot_name(&main, first)]).await?;
        self.guid(&main, first).await
    }

    /// The volume's snapshots, the main line's first, oldest first in each filesystem. None for a volume that is not here.
    pub async fn snapshots(&self, volume: VolumeId) -> Result<Vec<Snapshot>> {
        let topology = self.topology_of(volume).await?;
        Ok(topology.of(volume).flat_map(Filesystem::published).collect())
    }

    /// All volumes' snapshots, from one listing.
    pub async fn all_snapshots(&self) -> Result<Vec<(VolumeId, Snapshot)>> {
        let topology = self.topology(&[self.inner.layout.root()]).await?;
        let all = topology.filesystems.iter().flat_map(Filesystem::published);
        Ok(all.map(|snapshot| (snapshot.volume, snapshot)).collect())
    }

    /// The volumes that have anything on the main lines or branches here, the one whose snapshots are oldest first.
    pub async fn volumes(&self) -> Result<Vec<VolumeId>> {
        let layout = &self.inner.layout;
        let topology = self.topology(&[&layout.mains(), &layout.all_branches()]).await?;
        let mut newest: HashMap<VolumeId, u64> = HashMap::new();
        for filesystem in &topology.filesystems {
            let Some(volume) = filesystem.place.volume() else { continue };
            let txg = filesystem.tip().map_or(0, |tip| tip.created_txg);
            let known = newest.entry(volume).or_default();
            *known = txg.max(*known);
        }
        let mut volumes: Vec<_> = newest.into_iter().collect();
        volumes.sort_by_key(|(volume, txg)| (*txg, volume.0));
        Ok(volumes.into_iter().map(|(volume, _)| volume).collect())
    }

    /// The newest snapshots of the volume's branches.
    pub async fn branches(&self, volume: VolumeId) -> Result<Vec<SnapshotId>> {
        let topology = self.topology(&[&self.inner.layout.branches(volume)]).await?;
        Ok(topology.of(volume).filter_map(|branch| branch.tip()).map(|tip| tip.id).collect())
    }

    /// One snapshot, on the main line, a branch or a task's clone.
    pub async fn find(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Option<Snapshot>> {
        Ok(self.snapshots(volume).await?.into_iter().find(|found| found.id == snapshot))
    }

    /// Waits until nobody else moves the volume's filesystems.
    async fn lock(&self, volume: VolumeId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks =
                self.inner.locks.lock().expect("nothing panics while it holds the table of locks");
            let known = locks.get(&volume).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                locks.retain(|_, lock| lock.strong_count() > 0);
                let lock = Arc::default();
                locks.insert(volume, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    fn name(&self, place: Place) -> String {
        self.inner.layout.filesystem(place)
    }

    /// The volume's filesystems, those in tasks included.
    async fn topology_of(&self, volume: VolumeId) -> Result<Topology> {
        let layout = &self.inner.layout;
        self.topology(&[&self.name(Place::Main(volume)), &layout.branches(volume), &layout.tasks()]).await
    }

    /// What lies at and below these datasets, of which some may not exist.
    async fn topology(&self, datasets: &[&str]) -> Result<Topology> {
        let mut arguments = vec!["get", "-Hp", "-r", "-o", "name,property,value", PROPERTIES];
        arguments.extend(datasets);
        let mut listing = Listing::new(&self.inner.layout);
        match command::zfs_lines(&arguments, &mut |line| listing.push(line)).await {
            // It lists the others all the same. A dataset that goes away under the listing is not there either.
            Ok(()) | Err(Error::NotFound(_)) => Ok(listing.finish()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn guid(&self, filesystem: &str, snapshot: SnapshotId) -> Result<SnapshotGuid> {
        let name = snapshot_name(filesystem, snapshot);
        let said = self.property(&name, "guid").await?;
        said.parse()
            .map(SnapshotGuid)
            .map_err(|_| Error::Unexpected(Failure { command: format!("zfs get guid {name}"), said }))
    }

    async fn property(&self, dataset: &str, property: &str) -> Result<String> {
        Ok(zfs(&["get", "-Hp", "-o", "value", property, dataset]).await?.trim_end().to_owned())
    }

    async fn exists(&self, dataset: &str) -> Result<bool> {
        match self.property(dataset, "guid").await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// `zfs create`, where "it exists" is success.
pub(crate) async fn create_filesystem(name: &str, options: &[&str]) -> Result<()> {
    let mut arguments = vec!["create"];
    arguments.extend(options);
    arguments.push(name);
    match zfs(&arguments).await {
        Err(Error::Exists(_)) => Ok(()),
        result => result.map(drop),
    }
}

/// `zfs destroy`, where "it does not exist" is success; waits a few seconds for it to become free.
pub(crate) async fn destroy(name: &str) -> Result<()> {
    ignore_missing(command::zfs_patiently(&["destroy", name]).await)
}

/// The same with everything below it and its snapshots, but never with clones elsewhere.
pub(crate) async fn destroy_tree(name: &str) -> Result<()> {
    ignore_missing(command::zfs_patiently(&["destroy", "-r", name]).await)
}

pub(crate) fn ignore_missing(result: Result<String>) -> Result<()> {
    match result {
        Err(Error::NotFound(_)) => Ok(()),
        result => result.map(drop),
    }
}
