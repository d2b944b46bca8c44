//! Which snapshots may go.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
};

use super::{
    Invalid, Selection, span,
    tree::{Dataset, Snapshot, Tree},
};
use crate::SnapshotGuid;

/// How many snapshots to keep of which age: `1x1h(keep=all) | 24x1h | 30x1d | 12x30d`.
///
/// Each part is so many spans of such a length, one after the other, back from a dataset's newest snapshot (not from now: what
/// stands still loses nothing). Of each span the oldest snapshot is kept, or so many of the oldest, or all: the oldest, since
/// what is kept of a span has to reach the next one. What is older than all spans goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The age at which it begins and the one before which it ends, in seconds.
    from_s: i64,
    to_s: i64,
    span_s: i64,
    keep: usize,
}

/// Snapshots of one dataset that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The dataset.
    pub path: String,
    /// Their names, oldest first.
    pub snapshots: Vec<String>,
}

/// Says which snapshots of `side` may go by the grid, of those that `datasets` and `snapshots` mean. `other` is the tree that it
/// is kept in step with, on whichever side.
///
/// Only what is older than the newest snapshot that both have goes: the next stream starts from that one, and what is newer has
/// yet to be sent. What is held, or what a clone hangs on, stays.
pub fn expired(
    side: &Tree,
    other: &Tree,
    grid: &Grid,
    datasets: &Selection,
    snapshots: &Selection,
) -> Vec<Expired> {
    let common: HashSet<SnapshotGuid> = other.datasets().iter().flat_map(guids).collect();
    let origins = side.origins();
    let mut all = Vec::new();
    for dataset in side.datasets().iter().filter(|dataset| datasets.has(&dataset.path)) {
        let ours = guids_with_age(dataset).filter(|(guid, _)| common.contains(guid));
        let Some(newest_common) = ours.map(|(_, txg)| txg).max() else { continue };
        let governed: Vec<&Snapshot> =
            dataset.snapshots.iter().filter(|snapshot| snapshots.has(&snapshot.name)).collect();
        let may_go = |snapshot: &&&Snapshot| {
            let needed = snapshot.held || snapshot.cloned || origins.contains_key(&snapshot.guid);
            snapshot.created_txg < newest_common && !needed
        };
        let gone = grid.beyond(&governed);
        let names: Vec<String> = gone.iter().filter(may_go).map(|snapshot| snapshot.name.clone()).collect();
        if !names.is_empty() {
            all.push(Expired { path: dataset.path.clone(), snapshots: names });
        }
    }
    all
}

fn guids(dataset: &Dataset) -> impl Iterator<Item = SnapshotGuid> {
    guids_with_age(dataset).map(|(guid, _)| guid)
}

/// Of snapshots and of bookmarks: a stream can start from either.
fn guids_with_age(dataset: &Dataset) -> impl Iterator<Item = (SnapshotGuid, u64)> {
    let snapshots = dataset.snapshots.iter().map(|snapshot| (snapshot.guid, snapshot.created_txg));
    snapshots.chain(dataset.bookmarks.iter().map(|bookmark| (bookmark.guid, bookmark.created_txg)))
}

impl Grid {
    /// Those of one dataset's snapshots (oldest first) that it does not keep.
    fn beyond<'a>(&self, snapshots: &[&'a Snapshot]) -> Vec<&'a Snapshot> {
        let newest_s = snapshots.iter().map(|snapshot| snapshot.created_s).max().unwrap_or(0);
        let mut kept: HashMap<(usize, i64), usize> = HashMap::new();
        let mut beyond = Vec::new();
        for snapshot in snapshots {
            let age_s = newest_s.saturating_sub(snapshot.created_s);
            let part = self.parts.iter().position(|part| age_s < part.to_s);
            let kept_here = part.is_some_and(|at| {
                let part = &self.parts[at];
                let count = kept.entry((at, (age_s - part.from_s) / part.span_s)).or_default();
                *count += 1;
                *count <= part.keep
            });
            if !kept_here {
                beyond.push(*snapshot);
            }
        }
        beyond
    }
}

impl FromStr for Grid {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: String| {
            let why = format!("{why}; write it as 1x1h(keep=all) | 24x1h | 30x1d | 12x30d");
            Invalid { what: "retention grid", text: text.to_owned(), why }
        };
        let (mut parts, mut from_s) = (Vec::new(), 0);
        for written in text.split('|').map(str::trim) {
            let part = Part::read(written, from_s).map_err(invalid)?;
            from_s = part.to_s;
            parts.push(part);
        }
        Ok(Self { parts })
    }
}

impl Part {
    fn read(text: &str, from_s: i64) -> Result<Self, String> {
        let (written, keep) = match text.split_once('(') {
            Some((written, rest)) => (written.trim(), read_keep(rest)?),
            None => (text, 1),
        };
        let parts = written.split_once('x').and_then(|(count, length)| {
            let count = count.trim().parse::<i64>().ok().filter(|count| *count > 0)?;
            Some((count, span::seconds(length.trim())?))
        });
        let Some((count, span_s)) = parts else {
            return Err(format!("{text:?} is not a number of spans and their length, such as 24x1h"));
        };
        let to_s = count.checked_mul(span_s).and_then(|length_s| from_s.checked_add(length_s));
        let to_s = to_s.ok_or_else(|| format!("{text:?} reaches back further than time does"))?;
        Ok(Self { from_s, to_s, span_s, keep })
    }
}

fn read_keep(text: &str) -> Result<usize, String> {
    let value = text.strip_suffix(')').and_then(|inside| inside.trim().strip_prefix("keep="));
    match value {
        Some("all") => Ok(usize::MAX),
        Some(count) if count.parse::<usize>().is_ok_and(|count| count > 0) => {
            Ok(count.parse().expect("it was parsed above"))
        }
        _ => Err(format!("\"({text}\" is neither (keep=all) nor (keep=2) or another number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 60 * 60;

    fn snapshot(n: u64, created_s: i64) -> Snapshot {
        Snapshot {
            name: format!("s{n}"),
            guid: SnapshotGuid(n),
            created_txg: n,
            created_s,
            ivset: None,
            held: false,
            cloned: false,
        }
    }

    fn tree(snapshots: Vec<Snapshot>) -> Tree {
        Tree::new(vec![Dataset { snapshots, ..Dataset::default() }])
    }

    fn gone(side: &Tree, other: &Tree, grid: &str) -> Vec<String> {
        let (grid, all) = (grid.parse().unwrap(), Selection::default());
        expired(side, other, &grid, &all, &all).into_iter().flat_map(|expired| expired.snapshots).collect()
    }

    #[test]
    fn a_grid_keeps_the_oldest_of_each_span() {
        // Every half hour for six hours; s12 is the newest.
        let side = tree((0..=12).map(|n| snapshot(n, i64::try_from(n).unwrap() * HOUR / 2)).collect());
        assert_eq!(
            gone(&side, &side, "1x1h(keep=all) | 3x1h"),
            ["s0", "s1", "s2", "s3", "s4", "s6", "s8", "s10"]
        );
        assert_eq!(
            gone(&side, &side, "1x6h(keep=2)"),
            ["s0", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11"]
        );
        assert_eq!(gone(&side, &side, "1x1w(keep=all)"), [""; 0]);
    }

    #[test]
    fn what_is_needed_stays_whatever_the_grid_says() {
        let mut snapshots: Vec<_> = (0..8).map(|n| snapshot(n, i64::try_from(n).unwrap())).collect();
        snapshots[1].held = true;
        snapshots[2].cloned = true;
        let other = tree(vec![snapshot(5, 5), snapshot(99, 99)]);
        let side = tree(snapshots);
        assert_eq!(
            gone(&side, &other, "1x1s"),
            ["s0", "s3", "s4"],
            "s5 is the base, s6 and s7 were not sent"
        );
        assert_eq!(gone(&side, &tree(Vec::new()), "1x1s"), [""; 0], "nothing is in common");
    }

    #[test]
    fn a_wrong_grid_says_how_to_write_it() {
        for wrong in [
            "",
            "24",
            "0x1h",
            "24x",
            "1x1y",
            "x1h",
            "1x1h(keep=)",
            "1x1h(keep=0)",
            "1x1h(all)",
            "1x1h |",
            "9223372036854775807x1w",
        ] {
            let error = wrong.parse::<Grid>().unwrap_err().to_string();
            assert!(error.contains("24x1h | 30x1d"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9x1hdw(keep=al) |]{0,30}", ages in proptest::collection::vec(any::<i64>(), 0..9)) {
            if let Ok(grid) = text.parse::<Grid>() {
                let snapshots: Vec<_> = (0..).zip(ages).map(|(n, age)| snapshot(n, age)).collect();
                let _ = grid.beyond(&snapshots.iter().collect::<Vec<_>>());
            }
        }

        #[test]
        fn what_is_kept_is_kept_again(ages in proptest::collection::btree_set(0_i64..100_000, 1..60)) {
            let grid: Grid = "1x1h(keep=all) | 5x1h | 3x4h(keep=2)".parse().unwrap();
            let all: Vec<_> = (0..).zip(ages).map(|(n, age)| snapshot(n, age)).collect();
            let refs: Vec<&Snapshot> = all.iter().collect();
            let beyond: HashSet<u64> = grid.beyond(&refs).iter().map(|s| s.guid.0).collect();
            let kept: Vec<&Snapshot> = refs.into_iter().filter(|s| !beyond.contains(&s.guid.0)).collect();
            prop_assert_eq!(kept.last().map(|s| s.guid), all.last().map(|s| s.guid), "the first hour is kept whole");
            prop_assert!(grid.beyond(&kept).is_empty());
        }
    }
}
