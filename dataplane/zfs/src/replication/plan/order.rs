//! In which order datasets can be made: parents before children, clones after their origins.

use std::collections::{BTreeSet, HashSet};

use crate::replication::tree::{Tree, parent};

pub(super) struct Order {
    /// Positions in the tree.
    pub(super) positions: Vec<usize>,
    /// Those that cannot be made as clones: one that was renamed to lie above its own origin has to be there before it.
    pub(super) cut: HashSet<usize>,
}

pub(super) fn order(tree: &Tree) -> Order {
    let datasets = tree.datasets();
    let mut waiting = vec![0_u8; datasets.len()];
    let mut unblocks: Vec<Vec<usize>> = vec![Vec::new(); datasets.len()];
    for (at, dataset) in datasets.iter().enumerate() {
        let above = parent(&dataset.path).and_then(|path| tree.position(path));
        let origin = dataset.origin.as_ref().and_then(|origin| tree.position(&origin.path));
        for first in [above, origin.filter(|origin| above != Some(*origin))].into_iter().flatten() {
            waiting[at] += 1;
            unblocks[first].push(at);
        }
    }
    let mut ready: BTreeSet<usize> = (0..datasets.len()).filter(|&at| waiting[at] == 0).collect();
    let mut left: BTreeSet<usize> = (0..datasets.len()).collect();
    let (mut positions, mut cut) = (Vec::with_capacity(datasets.len()), HashSet::new());
    loop {
        let Some(at) = ready.pop_first().or(left.first().copied()) else {
            return Order { positions, cut };
        };
        if waiting[at] > 0 {
            // The first of what is left waits for its origin alone: its parent comes before it, and is done.
            cut.insert(at);
        }
        left.remove(&at);
        positions.push(at);
        for &other in unblocks[at].iter().filter(|other| left.contains(other)) {
            waiting[other] -= 1;
            if waiting[other] == 0 {
                ready.insert(other);
            }
        }
    }
}
