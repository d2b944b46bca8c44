//! A tree of datasets at one moment.

use std::collections::HashMap;

use crate::{SnapshotGuid, StreamMode};

/// A dataset and all below it, with their snapshots and bookmarks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// By path, so that parents come before their children.
    datasets: Vec<Dataset>,
}

/// A filesystem or a block volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Relative to the tree's root, such as `train/images`; empty for the root itself.
    pub path: String,
    /// The snapshot of this tree that it was cloned from.
    pub origin: Option<Origin>,
    /// Whether its blocks are encrypted on the pool.
    pub encrypted: bool,
    /// Whether it is a disk (a block volume) and holds no files.
    pub disk: bool,
    /// How its streams came here, where that is remembered; it goes on in no other way.
    pub mode: Option<StreamMode>,
    /// What a receive that broke left behind.
    pub half_received: Option<HalfReceived>,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Oldest first.
    pub bookmarks: Vec<Bookmark>,
}

/// Where a clone comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The path of its dataset.
    pub path: String,
    /// Its name there.
    pub snapshot: String,
}

/// A broken receive that can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfReceived {
    /// What `zfs send -t` takes.
    pub token: String,
    /// The snapshot that was on its way; `None` if the token cannot be read.
    pub guid: Option<SnapshotGuid>,
}

/// A snapshot of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What follows the `@`.
    pub name: String,
    /// Equal on every pool that has it.
    pub guid: SnapshotGuid,
    /// Orders the snapshots and bookmarks of one dataset by age; has no meaning on another pool.
    pub created_txg: u64,
    /// When it was taken, in Unix seconds by the clock of its pool.
    pub created_s: i64,
    /// Which set of initialisation vectors its blocks were encrypted with: equal on both sides only if it came as a raw stream.
    pub ivset: Option<u64>,
    /// Somebody holds it.
    pub held: bool,
    /// A clone hangs on it.
    pub cloned: bool,
}

/// What is left of a snapshot to send from once it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// What follows the `#`.
    pub name: String,
    /// The snapshot's.
    pub guid: SnapshotGuid,
    /// The snapshot's.
    pub created_txg: u64,
    /// The snapshot's.
    pub ivset: Option<u64>,
}

impl Tree {
    /// Of datasets in any order, with snapshots and bookmarks in any order.
    pub fn new(mut datasets: Vec<Dataset>) -> Self {
        for dataset in &mut datasets {
            dataset.snapshots.sort_by_key(|snapshot| snapshot.created_txg);
            dataset.bookmarks.sort_by_key(|bookmark| bookmark.created_txg);
        }
        datasets.sort_by(|a, b| a.path.cmp(&b.path));
        Self { datasets }
    }

    /// By path, parents before their children.
    pub fn datasets(&self) -> &[Dataset] {
        &self.datasets
    }

    pub(crate) fn retain(&mut self, stays: impl FnMut(&Dataset) -> bool) {
        self.datasets.retain(stays);
    }

    pub(crate) fn half_received_mut(&mut self) -> impl Iterator<Item = &mut HalfReceived> {
        self.datasets.iter_mut().filter_map(|dataset| dataset.half_received.as_mut())
    }

    /// The dataset at a path.
    pub fn dataset(&self, path: &str) -> Option<&Dataset> {
        self.position(path).map(|at| &self.datasets[at])
    }

    pub(super) fn position(&self, path: &str) -> Option<usize> {
        self.datasets.binary_search_by(|dataset| dataset.path.as_str().cmp(path)).ok()
    }

    /// The snapshot that a clone comes from, if the tree has it.
    pub(super) fn origin_of(&self, clone: &Dataset) -> Option<&Snapshot> {
        let origin = clone.origin.as_ref()?;
        self.dataset(&origin.path)?.snapshots.iter().find(|snapshot| snapshot.name == origin.snapshot)
    }

    /// The snapshots that clones of this tree come from, with their clones.
    pub(super) fn origins(&self) -> HashMap<SnapshotGuid, Vec<&Dataset>> {
        let mut origins: HashMap<_, Vec<_>> = HashMap::new();
        for clone in &self.datasets {
            if let Some(origin) = self.origin_of(clone) {
                origins.entry(origin.guid).or_default().push(clone);
            }
        }
        origins
    }
}

impl Dataset {
    /// The newest snapshot, which is what an incremental stream can be received onto.
    pub fn tip(&self) -> Option<&Snapshot> {
        self.snapshots.last()
    }
}

/// The path of the dataset above; `None` for the root.
pub(super) fn parent(path: &str) -> Option<&str> {
    if path.is_empty() {
        return None;
    }
    Some(path.rsplit_once('/').map_or("", |(above, _)| above))
}
