//! What is on the pool, as read from one listing, and what the next step of an advance is. Pure.

use ds_domain::ids::{SnapshotId, VolumeId};

use crate::{
    SnapshotGuid,
    names::{Layout, Place, parse_snapshot},
};

/// The properties that a listing must ask for.
pub(crate) const PROPERTIES: &str = "guid,used,createtxg,origin";

/// A snapshot of a volume on this pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose.
    pub volume: VolumeId,
    /// Its id, equal on every node.
    pub id: SnapshotId,
    /// Its GUID, equal on every node.
    pub guid: SnapshotGuid,
    /// The full name of the filesystem that it lies on: the main line, a branch or a task's clone.
    pub filesystem: String,
    /// Whether it lies on the volume's main line.
    pub main: bool,
    /// Newest of its filesystem: an incremental stream from it can be received there.
    pub tip: bool,
    /// Bytes that only this snapshot holds.
    pub used_bytes: u64,
    /// Orders the snapshots of one filesystem by age; has no meaning on another pool.
    pub created_txg: u64,
    /// Where within the volume its filesystem was cloned from.
    pub origin: Option<Origin>,
}

/// The snapshot that a clone was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The full name of the filesystem that it lies on.
    pub filesystem: String,
    /// Its id.
    pub snapshot: SnapshotId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filesystem {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) origin: Option<Origin>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Point>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) id: SnapshotId,
    pub(crate) guid: SnapshotGuid,
    pub(crate) used_bytes: u64,
    pub(crate) created_txg: u64,
}

impl Filesystem {
    pub(crate) fn tip(&self) -> Option<&Point> {
        self.snapshots.last()
    }

    pub(crate) fn point(&self, snapshot: SnapshotId) -> Option<&Point> {
        self.snapshots.iter().find(|point| point.id == snapshot)
    }

    fn is_main(&self) -> bool {
        matches!(self.place, Place::Main(_))
    }

    /// Main lines first, then branches, then what may go away soonest.
    fn rank(&self) -> u8 {
        match self.place {
            Place::Main(_) => 0,
            Place::Branch(..) => 1,
            Place::Task(..) => 2,
            Place::Reading(_) => 3,
        }
    }

    /// Its snapshots, oldest first; none for a reading clone, which has none.
    pub(crate) fn published(&self) -> impl Iterator<Item = Snapshot> {
        let tip = self.tip().map(|point| point.id);
        self.place.volume().into_iter().flat_map(move |volume| {
            self.snapshots.iter().map(move |point| Snapshot {
                volume,
                id: point.id,
                guid: point.guid,
                filesystem: self.name.clone(),
                main: self.is_main(),
                tip: tip == Some(point.id),
                used_bytes: point.used_bytes,
                created_txg: point.created_txg,
                origin: self.origin.clone(),
            })
        })
    }
}

/// One step of an advance. After each the pool is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Let the clone take over the snapshots of its origin.
    Promote(String),
    /// Destroy a filesystem that has no snapshot left.
    Destroy(String),
    /// Rename a filesystem that nothing uses.
    Rename { from: String, to: Place },
}

/// Filesystems of ours with their snapshots: main lines first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) filesystems: Vec<Filesystem>,
}

impl Topology {
    pub(crate) fn filesystem(&self, place: Place) -> Option<&Filesystem> {
        self.filesystems.iter().find(|filesystem| filesystem.place == place)
    }

    /// The filesystem of `volume` that has the snapshot, the main line before branches before tasks' clones.
    pub(crate) fn holding(&self, volume: VolumeId, snapshot: SnapshotId) -> Option<&Filesystem> {
        self.of(volume).find(|filesystem| filesystem.point(snapshot).is_some())
    }

    pub(crate) fn of(&self, volume: VolumeId) -> impl Iterator<Item = &Filesystem> {
        self.filesystems.iter().filter(move |filesystem| filesystem.place.volume() == Some(volume))
    }

    /// What to do next so that `snapshot` becomes the newest of the volume's main line; `None` when nothing is left to do
    /// or the snapshot is not here.
    ///
    /// It looks at nothing but what is there, so an advance that was cut off anywhere goes on where it was. What was the main
    /// line and has snapshots of its own (it went another way than the clone) is kept as a branch.
    pub(crate) fn next_step(&self, volume: VolumeId, snapshot: SnapshotId) -> Option<Step> {
        let here = self.holding(volume, snapshot)?;
        if !here.is_main() && here.origin.is_some() {
            return Some(Step::Promote(here.name.clone()));
        }
        // A branch is named after the snapshot that it was made for. If that snapshot is now here, a promote took it.
        let emptied = self.of(volume).find(|other| match other.place {
            Place::Branch(_, made_for) => other.snapshots.is_empty() && here.point(made_for).is_some(),
            _ => false,
        });
        if let Some(emptied) = emptied {
            return Some(Step::Destroy(emptied.name.clone()));
        }
        if here.is_main() {
            return None;
        }
        Some(match self.filesystem(Place::Main(volume)) {
            None => Step::Rename { from: here.name.clone(), to: Place::Main(volume) },
            Some(main) => match main.tip() {
                None => Step::Destroy(main.name.clone()),
                Some(tip) => Step::Rename { from: main.name.clone(), to: Place::Branch(volume, tip.id) },
            },
        })
    }
}

/// Builds a [`Topology`] from the lines of `zfs get -Hp -r -o name,property,value` with [`PROPERTIES`].
///
/// (`zfs list` would be shorter, but zfs-fuse's knows no `-p` and rounds GUIDs as if they were sizes.)
pub(crate) struct Listing<'a> {
    layout: &'a Layout,
    topology: Topology,
    /// The dataset that the last lines were about.
    current: Option<(String, Row)>,
}

#[derive(Default)]
struct Row {
    guid: Option<u64>,
    used: u64,
    created_txg: u64,
    origin: Option<String>,
}

impl<'a> Listing<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Self {
        Self { layout, topology: Topology::default(), current: None }
    }

    pub(crate) fn push(&mut self, line: &str) {
        let mut columns = line.split('\t');
        let (Some(name), Some(property), Some(value)) = (columns.next(), columns.next(), columns.next())
        else {
            return;
        };
        if self.current.as_ref().is_none_or(|(current, _)| current != name) {
            self.end_row();
            self.current = Some((name.to_owned(), Row::default()));
        }
        let Some((_, row)) = &mut self.current else { return };
        match property {
            "guid" => row.guid = value.parse().ok(),
            "used" => row.used = value.parse().unwrap_or(0),
            "createtxg" => row.created_txg = value.parse().unwrap_or(0),
            "origin" if value != "-" => row.origin = Some(value.to_owned()),
            _ => {}
        }
    }

    pub(crate) fn finish(mut self) -> Topology {
        self.end_row();
        for filesystem in &mut self.topology.filesystems {
            filesystem.snapshots.sort_by_key(|point| point.created_txg);
        }
        self.topology.filesystems.sort_by(|a, b| (a.rank(), &a.name).cmp(&(b.rank(), &b.name)));
        self.topology
    }

    /// A volume that was begun as a clone of another keeps that origin for ever: it is no branch that waits to be promoted.
    fn is_within_a_volume(&self, place: Place, origin: &str) -> bool {
        let volume_of = |filesystem| self.layout.parse(filesystem).and_then(Place::volume);
        place.volume().is_none_or(|volume| volume_of(origin) == Some(volume))
    }

    fn end_row(&mut self) {
        let Some((name, row)) = self.current.take() else { return };
        let Some(guid) = row.guid else { return };
        if let Some((filesystem, id)) = parse_snapshot(&name) {
            // A listing names a filesystem before its snapshots, and those before the next filesystem.
            if let Some(owner) = self.topology.filesystems.last_mut().filter(|last| last.name == filesystem) {
                let point = Point {
                    id,
                    guid: SnapshotGuid(guid),
                    used_bytes: row.used,
                    created_txg: row.created_txg,
                };
                owner.snapshots.push(point);
            }
        } else if let Some(place) = self.layout.parse(&name) {
            let origin = row.origin.as_deref().and_then(parse_snapshot);
            let origin = origin
                .filter(|(filesystem, _)| self.is_within_a_volume(place, filesystem))
                .map(|(filesystem, snapshot)| Origin { filesystem: filesystem.to_owned(), snapshot });
            self.topology.filesystems.push(Filesystem { name, place, origin, snapshots: Vec::new() });
        }
    }
}

#[cfg(test)]
mod tests;
