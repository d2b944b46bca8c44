//! Listings, steps and abilities, in the words of the wire and in those of ZFS.

use ds_link::Peer;
use ds_proto::v1;
use ds_zfs::{
    Features, Implementation, SnapshotGuid,
    replication::{Base, Bookmark, Dataset, HalfReceived, Mark, Origin, Point, Snapshot, Step, Tree},
};

use crate::{Error, Result};

/// Snapshots and bookmarks in one message: at most some 300 bytes each.
const MARKS_PER_PART: usize = 2_000;

/// Snapshots, bookmarks and datasets of one listing, so that the other end cannot fill our memory: some 500 MB.
const MOST_ENTRIES: usize = 4_000_000;

pub(crate) fn abilities_to_proto(zfs: &Features) -> v1::ZfsAbilities {
    v1::ZfsAbilities {
        version: zfs.version.clone(),
        open_zfs: zfs.implementation == Implementation::OpenZfs,
        resume: zfs.resume,
        compressed: zfs.compressed,
        large_blocks: zfs.large_blocks,
        embedded: zfs.embedded,
        raw: zfs.raw,
    }
}

/// What the other end does not tell, since it matters there alone, is taken as missing.
pub(crate) fn abilities_from_proto(zfs: &v1::ZfsAbilities) -> Features {
    Features {
        implementation: if zfs.open_zfs { Implementation::OpenZfs } else { Implementation::ZfsFuse },
        version: zfs.version.clone(),
        resume: zfs.resume,
        bookmarks: false,
        holds: false,
        compressed: zfs.compressed,
        large_blocks: zfs.large_blocks,
        embedded: zfs.embedded,
        raw: zfs.raw,
        dry_run: false,
        receive_unmounted: false,
        receive_excluding: false,
        mount_limits: false,
        diff: false,
    }
}

/// A dataset, in as many parts as it takes.
pub(crate) fn parts(dataset: &Dataset) -> impl Iterator<Item = v1::TreePart> {
    let of_dataset = |dataset: &Dataset| {
        let (origin_path, origin_snapshot) =
            dataset.origin.clone().map(|origin| (origin.path, origin.snapshot)).unwrap_or_default();
        let half = dataset.half_received.clone();
        v1::TreeDataset {
            origin_path,
            origin_snapshot,
            encrypted: dataset.encrypted,
            disk: dataset.disk,
            mode: dataset.mode.map(|mode| mode.to_string()).unwrap_or_default(),
            token_guid: half.as_ref().and_then(|half| half.guid).map_or(0, |guid| guid.0),
            token: half.map(|half| half.token).unwrap_or_default(),
        }
    };
    let first = v1::TreePart {
        path: dataset.path.clone(),
        dataset: Some(of_dataset(dataset)),
        ..v1::TreePart::default()
    };
    let snapshots = dataset.snapshots.chunks(MARKS_PER_PART).map(|some| v1::TreePart {
        path: dataset.path.clone(),
        snapshots: some.iter().map(snapshot_to_proto).collect(),
        ..v1::TreePart::default()
    });
    let bookmarks = dataset.bookmarks.chunks(MARKS_PER_PART).map(|some| v1::TreePart {
        path: dataset.path.clone(),
        bookmarks: some.iter().map(bookmark_to_proto).collect(),
        ..v1::TreePart::default()
    });
    std::iter::once(first).chain(snapshots).chain(bookmarks)
}

/// Puts a listing together again.
pub(crate) struct Gathering {
    peer: Peer,
    datasets: Vec<Dataset>,
    entries: usize,
}

impl Gathering {
    pub(crate) fn new(peer: Peer) -> Self {
        Self { peer, datasets: Vec::new(), entries: 0 }
    }

    pub(crate) fn take(&mut self, part: v1::TreePart) -> Result<()> {
        self.entries += 1 + part.snapshots.len() + part.bookmarks.len();
        if self.entries > MOST_ENTRIES {
            return Err(Error::protocol(self.peer, "its tree has more than four million snapshots"));
        }
        if let Some(dataset) = part.dataset {
            self.datasets.push(dataset_from_proto(part.path, dataset));
        } else if self.datasets.last().is_none_or(|last| last.path != part.path) {
            return Err(Error::protocol(self.peer, "it lists snapshots of no dataset"));
        }
        let dataset = self.datasets.last_mut().expect("one was pushed, or is checked to be there");
        dataset.snapshots.extend(part.snapshots.into_iter().map(snapshot_from_proto));
        dataset.bookmarks.extend(part.bookmarks.into_iter().map(bookmark_from_proto));
        Ok(())
    }

    pub(crate) fn finish(self) -> Tree {
        Tree::new(self.datasets)
    }
}

fn dataset_from_proto(path: String, of: v1::TreeDataset) -> Dataset {
    let origin = Origin { path: of.origin_path, snapshot: of.origin_snapshot };
    let guid = Some(of.token_guid).filter(|guid| *guid != 0).map(SnapshotGuid);
    Dataset {
        path,
        origin: Some(origin).filter(|origin| !origin.snapshot.is_empty()),
        encrypted: of.encrypted,
        disk: of.disk,
        mode: of.mode.parse().ok(),
        half_received: Some(HalfReceived { token: of.token, guid }).filter(|half| !half.token.is_empty()),
        snapshots: Vec::new(),
        bookmarks: Vec::new(),
    }
}

fn snapshot_to_proto(snapshot: &Snapshot) -> v1::TreeMark {
    v1::TreeMark {
        name: snapshot.name.clone(),
        guid: snapshot.guid.0,
        created_txg: snapshot.created_txg,
        created_s: snapshot.created_s,
        ivset: snapshot.ivset,
        held: snapshot.held,
        cloned: snapshot.cloned,
    }
}

fn snapshot_from_proto(mark: v1::TreeMark) -> Snapshot {
    Snapshot {
        name: mark.name,
        guid: SnapshotGuid(mark.guid),
        created_txg: mark.created_txg,
        created_s: mark.created_s,
        ivset: mark.ivset,
        held: mark.held,
        cloned: mark.cloned,
    }
}

fn bookmark_to_proto(bookmark: &Bookmark) -> v1::TreeMark {
    v1::TreeMark {
        name: bookmark.name.clone(),
        guid: bookmark.guid.0,
        created_txg: bookmark.created_txg,
        ivset: bookmark.ivset,
        ..v1::TreeMark::default()
    }
}

fn bookmark_from_proto(mark: v1::TreeMark) -> Bookmark {
    Bookmark {
        name: mark.name,
        guid: SnapshotGuid(mark.guid),
        created_txg: mark.created_txg,
        ivset: mark.ivset,
    }
}

/// `None` for a step that brings no snapshot.
pub(crate) fn step_to_proto(step: &Step) -> Option<v1::TreeStep> {
    let to = step.brings()?;
    let base = |from: &Base, clone| v1::TreeBase {
        path: from.path.clone(),
        name: from.name.clone(),
        guid: from.guid.0,
        bookmark: from.mark == Mark::Bookmark,
        clone,
    };
    let (base, token) = match step {
        Step::Incremental { from, .. } => (Some(base(from, false)), String::new()),
        Step::Clone { from, .. } => (Some(base(from, true)), String::new()),
        Step::Resume { token, .. } => (None, token.clone()),
        Step::Full { .. } | Step::MakePlace | Step::Abandon => (None, String::new()),
    };
    Some(v1::TreeStep { to: to.name.clone(), guid: to.guid.0, base, token })
}

pub(crate) fn step_from_proto(peer: Peer, step: v1::TreeStep) -> Result<Step> {
    let to = Point { name: step.to, guid: SnapshotGuid(step.guid) };
    match step.base {
        None if step.token.is_empty() => Ok(Step::Full { to }),
        None => Ok(Step::Resume { token: step.token, to }),
        Some(_) if !step.token.is_empty() => {
            Err(Error::protocol(peer, "a stream with a base and with a token"))
        }
        Some(base) => {
            let mark = if base.bookmark { Mark::Bookmark } else { Mark::Snapshot };
            let from = Base { path: base.path, mark, name: base.name, guid: SnapshotGuid(base.guid) };
            Ok(if base.clone { Step::Clone { from, to } } else { Step::Incremental { from, to } })
        }
    }
}

#[cfg(test)]
mod tests {
    use ds_domain::ids::NodeId;
    use ds_link::Role;
    use uuid::Uuid;

    use super::*;

    fn peer() -> Peer {
        Peer { role: Role::Store, node: NodeId(Uuid::from_u128(1)) }
    }

    fn snapshot(n: u64) -> Snapshot {
        Snapshot {
            name: format!("s{n}"),
            guid: SnapshotGuid(n),
            created_txg: n,
            created_s: 1_700_000_000,
            ivset: Some(n),
            held: n.is_multiple_of(2),
            cloned: n.is_multiple_of(3),
        }
    }

    #[test]
    fn a_listing_comes_back_as_it_was_in_frames_of_a_megabyte() {
        let bookmark = Bookmark { name: "b".into(), guid: SnapshotGuid(3), created_txg: 3, ivset: None };
        let half = HalfReceived { token: "1-2-3-4".into(), guid: Some(SnapshotGuid(9)) };
        let origin = Origin { path: String::new(), snapshot: "s1".into() };
        let tree = Tree::new(vec![
            Dataset { snapshots: (1..5_000).map(snapshot).collect(), ..Dataset::default() },
            Dataset {
                path: "a".into(),
                origin: Some(origin),
                encrypted: true,
                mode: Some("Lc".parse().unwrap()),
                half_received: Some(half),
                bookmarks: vec![bookmark],
                ..Dataset::default()
            },
        ]);
        let mut gathering = Gathering::new(peer());
        for part in tree.datasets().iter().flat_map(parts) {
            assert!(prost::Message::encoded_len(&part) < 1 << 20);
            gathering.take(part).unwrap();
        }
        assert_eq!(gathering.finish(), tree);
        let stray = v1::TreePart { path: "x".into(), ..v1::TreePart::default() };
        assert!(Gathering::new(peer()).take(stray).is_err());
    }

    #[test]
    fn steps_come_back_as_they_were() {
        let to = Point { name: "s2".into(), guid: SnapshotGuid(2) };
        let from = |mark| Base { path: "a".into(), mark, name: "s1".into(), guid: SnapshotGuid(1) };
        for step in [
            Step::Full { to: to.clone() },
            Step::Incremental { from: from(Mark::Bookmark), to: to.clone() },
            Step::Clone { from: from(Mark::Snapshot), to: to.clone() },
            Step::Resume { token: "1-2-3-4".into(), to },
        ] {
            let said = step_to_proto(&step).unwrap();
            assert_eq!(step_from_proto(peer(), said).unwrap(), step);
        }
        assert_eq!(step_to_proto(&Step::MakePlace), None);
    }
}
