use std::{fmt::Write, path::Path};

use ds_domain::ids::TaskId;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::names::snapshot_name;

const VOLUME: VolumeId = VolumeId(Uuid::from_u128(0xf));
const TASK: Place = Place::Task(TaskId(Uuid::from_u128(0xa)), VOLUME);
const MAIN: Place = Place::Main(VOLUME);

fn layout() -> Layout {
    Layout::new("tank/store", Path::new("/m")).unwrap()
}

fn id(n: u64) -> SnapshotId {
    SnapshotId(Uuid::from_u128(n.into()))
}

fn branch(n: u64) -> Place {
    Place::Branch(VOLUME, id(n))
}

/// A pool in memory that does what ZFS does with promote, destroy and rename.
#[derive(Clone, Default)]
struct Pool(Topology);

impl Pool {
    fn with(mut self, place: Place, origin: Option<(Place, u64)>, snapshots: &[u64]) -> Self {
        self.0.filesystems.push(Filesystem {
            name: layout().filesystem(place),
            place,
            origin: origin
                .map(|(place, n)| Origin { filesystem: layout().filesystem(place), snapshot: id(n) }),
            snapshots: snapshots
                .iter()
                .map(|&n| Point { id: id(n), guid: SnapshotGuid(n), used_bytes: 0, created_txg: n })
                .collect(),
        });
        self
    }

    fn index(&self, name: &str) -> usize {
        self.0.filesystems.iter().position(|filesystem| filesystem.name == name).unwrap()
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Promote(name) => self.promote(name),
            Step::Destroy(name) => {
                let gone = self.index(name);
                assert!(self.0.filesystems[gone].snapshots.is_empty(), "{name} still has snapshots");
                self.0.filesystems.remove(gone);
            }
            Step::Rename { from, to } => {
                assert!(self.0.filesystem(*to).is_none(), "{to:?} exists");
                let new = layout().filesystem(*to);
                let renamed = self.index(from);
                self.0.filesystems[renamed].place = *to;
                self.0.filesystems[renamed].name.clone_from(&new);
                for origin in self.0.filesystems.iter_mut().filter_map(|other| other.origin.as_mut()) {
                    if origin.filesystem == *from {
                        origin.filesystem.clone_from(&new);
                    }
                }
            }
        }
        self.0.filesystems.sort_by(|a, b| (a.rank(), &a.name).cmp(&(b.rank(), &b.name)));
    }

    fn promote(&mut self, name: &str) {
        let clone = self.index(name);
        let origin = self.0.filesystems[clone].origin.clone().expect("only clones are promoted");
        let parent = self.index(&origin.filesystem);
        let at = self.0.filesystems[parent].snapshots.iter().position(|p| p.id == origin.snapshot).unwrap();
        let moved: Vec<Point> = self.0.filesystems[parent].snapshots.drain(..=at).collect();
        let moved_ids: Vec<_> = moved.iter().map(|point| point.id).collect();
        self.0.filesystems[clone].origin = self.0.filesystems[parent].origin.take();
        self.0.filesystems[parent].origin =
            Some(Origin { filesystem: name.to_owned(), snapshot: origin.snapshot });
        self.0.filesystems[clone].snapshots.splice(0..0, moved);
        for other in self.0.filesystems.iter_mut().filter_map(|other| other.origin.as_mut()) {
            if other.filesystem == origin.filesystem && moved_ids.contains(&other.snapshot) {
                name.clone_into(&mut other.filesystem);
            }
        }
    }

    /// Runs to the end and gives the steps taken.
    fn advance(&mut self, n: u64) -> usize {
        for steps in 0..20 {
            match self.0.next_step(VOLUME, id(n)) {
                None => return steps,
                Some(step) => self.apply(&step),
            }
        }
        panic!("no end: {:?}", self.0);
    }

    fn ids(&self, place: Place) -> Vec<u64> {
        let filesystem = self.0.filesystem(place).unwrap_or_else(|| panic!("no {place:?} in {:?}", self.0));
        filesystem.snapshots.iter().map(|point| point.created_txg).collect()
    }
}

#[test]
fn a_clone_of_the_tip_becomes_the_main_line() {
    let mut pool = Pool::default().with(MAIN, None, &[1, 2]).with(TASK, Some((MAIN, 2)), &[3]);
    assert_eq!(pool.advance(3), 3);
    assert_eq!(pool.ids(MAIN), [1, 2, 3]);
    assert_eq!(pool.0.filesystems.len(), 1);
    assert_eq!(pool.advance(3), 0);
    assert_eq!(pool.advance(1), 0);
}

#[test]
fn a_branch_on_an_older_snapshot_survives() {
    let start = Pool::default().with(MAIN, None, &[1, 2]);
    let mut pool = start.with(branch(9), Some((MAIN, 1)), &[9]).with(TASK, Some((MAIN, 2)), &[3]);
    pool.advance(3);
    assert_eq!(pool.ids(MAIN), [1, 2, 3]);
    assert_eq!(pool.ids(branch(9)), [9]);
    let origin = pool.0.filesystem(branch(9)).unwrap().origin.clone().unwrap();
    assert_eq!(origin, Origin { filesystem: layout().filesystem(MAIN), snapshot: id(1) });
}

#[test]
fn a_main_line_that_went_another_way_becomes_a_branch() {
    let mut pool = Pool::default().with(MAIN, None, &[1, 2]).with(branch(3), Some((MAIN, 1)), &[3]);
    pool.advance(3);
    assert_eq!((pool.ids(MAIN), pool.ids(branch(2))), (vec![1, 3], vec![2]));
    let mut unrelated = Pool::default().with(MAIN, None, &[1, 2]).with(branch(5), None, &[5]);
    unrelated.advance(5);
    assert_eq!((unrelated.ids(MAIN), unrelated.ids(branch(2))), (vec![5], vec![1, 2]));
}

#[test]
fn a_chain_of_branches_is_followed_to_its_root() {
    let start = Pool::default().with(MAIN, None, &[1]).with(branch(2), Some((MAIN, 1)), &[2]);
    let mut pool = start.with(branch(3), Some((branch(2), 2)), &[3]);
    pool.advance(3);
    assert_eq!(pool.ids(MAIN), [1, 2, 3]);
    assert_eq!(pool.0.filesystems.len(), 1);
}

#[test]
fn what_is_being_received_is_left_alone() {
    let start = Pool::default().with(MAIN, None, &[1]).with(branch(7), Some((MAIN, 1)), &[]);
    let mut pool = start.with(TASK, Some((MAIN, 1)), &[2]);
    pool.advance(2);
    assert!(pool.0.filesystem(branch(7)).is_some());
}

#[test]
fn a_listing_is_read() {
    let main = layout().filesystem(MAIN);
    let clone = layout().filesystem(branch(2));
    let mut text = String::new();
    for (name, guid, txg, origin) in [
        ("tank/store/v".to_owned(), 1, 1, "-".to_owned()),
        (main.clone(), 10, 2, "-".to_owned()),
        (snapshot_name(&main, id(1)), 12, 9, "-".to_owned()),
        (snapshot_name(&main, id(7)), 11, 3, "-".to_owned()),
        (format!("{main}@manual"), 13, 4, "-".to_owned()),
        (clone.clone(), 14, 5, snapshot_name(&main, id(7))),
        (snapshot_name(&clone, id(2)), 15, 6, "-".to_owned()),
    ] {
        for (property, value) in [
            ("guid", guid.to_string()),
            ("used", "5".into()),
            ("createtxg", txg.to_string()),
            ("origin", origin),
        ] {
            writeln!(text, "{name}\t{property}\t{value}").unwrap();
        }
    }
    let layout = layout();
    let mut listing = Listing::new(&layout);
    text.lines().for_each(|line| listing.push(line));
    let topology = listing.finish();
    let found: Vec<Snapshot> = topology.of(VOLUME).flat_map(Filesystem::published).collect();
    let short: Vec<_> = found.iter().map(|s| (s.id, s.guid.0, s.tip, s.main, s.used_bytes)).collect();
    assert_eq!(short, [(id(7), 11, false, true, 5), (id(1), 12, true, true, 5), (id(2), 15, true, false, 5)]);
    assert_eq!(found[2].origin, Some(Origin { filesystem: main, snapshot: id(7) }));
}

proptest! {
    #[test]
    fn no_listing_makes_it_panic(lines in proptest::collection::vec("(tank/store/v/[0-9a-f]{32}(@[0-9a-f]{32})?\t(guid|origin|used)\t[0-9-]{1,22})|.{0,40}", 0..30)) {
        let layout = layout();
        let mut listing = Listing::new(&layout);
        for line in &lines {
            listing.push(line);
        }
        let topology = listing.finish();
        let _ = topology.next_step(VOLUME, id(1));
    }

    /// Whatever tree of clones there is, an advance ends, loses no snapshot, and makes the wanted one the main line's newest.
    #[test]
    fn an_advance_loses_nothing(parents in proptest::collection::vec(any::<proptest::sample::Index>(), 1..8), pick: proptest::sample::Index) {
        let mut pool = Pool::default().with(MAIN, None, &[1, 2]);
        let mut points = vec![(MAIN, 1), (MAIN, 2)];
        for (n, parent) in (3..).zip(&parents) {
            let (place, at) = points[parent.index(points.len())];
            pool = pool.with(branch(n), Some((place, at)), &[n]);
            points.push((branch(n), n));
        }
        let (place, wanted) = points[pick.index(points.len())];
        pool.advance(wanted);
        let main = pool.ids(MAIN);
        if place != MAIN {
            prop_assert_eq!(main.last(), Some(&wanted));
        }
        let mut all: Vec<u64> = pool.0.filesystems.iter().flat_map(|f| &f.snapshots).map(|p| p.created_txg).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (1..3 + parents.len() as u64).collect::<Vec<_>>());
    }
}
