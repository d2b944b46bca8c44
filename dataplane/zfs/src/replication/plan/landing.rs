//! Where at the target a dataset's snapshots can be received.

use std::collections::HashMap;

use super::{Base, Divergence, Mark};
use crate::{
    SnapshotGuid,
    replication::tree::{Dataset, HalfReceived, Tree},
};

/// A path at the target, and what can be received there.
pub(super) struct Landing<'a> {
    pub(super) path: String,
    pub(super) state: State,
    /// What is there, or, for a fork, what it is forked from.
    pub(super) copy: Option<&'a Dataset>,
    pub(super) half_received: Option<&'a HalfReceived>,
}

pub(super) enum State {
    /// Nothing is there, or only the beginning of a first stream.
    Absent,
    /// The newest snapshot there is one that the source can send from.
    Tip(Base),
    /// Nothing is there yet, and it is to begin as a clone of this, or, with nothing in common, with a full stream.
    Fork(Option<Base>),
    /// It has snapshots that the source does not know.
    Diverged { common: Option<String>, newer: usize },
}

/// Finds the place: the copy by the same name; with [`Divergence::Beside`] one that was begun beside it, or a new one.
pub(super) fn find<'a>(source: &Dataset, target: &'a Tree, divergence: Divergence) -> Landing<'a> {
    let bases = bases(source);
    let beside = match divergence {
        Divergence::Report => Vec::new(),
        Divergence::Beside => besides(&source.path, target),
    };
    let own = target.dataset(&source.path);
    let copies = own.into_iter().chain(beside.iter().map(|(_, copy)| *copy));
    let mut first = None;
    let mut fork: Option<(u64, Base, &Dataset)> = None;
    for copy in copies {
        let landing = look(copy, &bases);
        if let State::Tip(_) | State::Absent = landing.state {
            return landing;
        }
        if let Some((txg, base)) = newest_common(copy, &bases)
            && fork.as_ref().is_none_or(|(newest, ..)| txg > *newest)
        {
            fork = Some((txg, base, copy));
        }
        first.get_or_insert(landing);
    }
    let absent = Landing { path: source.path.clone(), state: State::Absent, copy: None, half_received: None };
    match first {
        // The name itself is free, whatever was begun beside it.
        _ if own.is_none() => absent,
        Some(diverged) if divergence == Divergence::Report => diverged,
        _ => {
            let number = beside.last().map_or(1, |(number, _)| number + 1);
            let (base, copy) = fork.map(|(_, base, copy)| (base, copy)).unzip();
            let path = format!("{}{number}", beside_path(&source.path));
            Landing { path, state: State::Fork(base), copy, half_received: None }
        }
    }
}

impl Landing<'_> {
    /// Whether the copy was begun with raw streams; `None` where there is none, or nothing tells.
    pub(super) fn begun_raw(&self, source: &Dataset) -> Option<bool> {
        let (State::Tip(base) | State::Fork(Some(base))) = &self.state else { return None };
        let theirs = self.copy?.snapshots.iter().find(|snapshot| snapshot.guid == base.guid)?;
        let snapshots = source.snapshots.iter().map(|snapshot| (snapshot.guid, snapshot.ivset));
        let mut ours =
            snapshots.chain(source.bookmarks.iter().map(|bookmark| (bookmark.guid, bookmark.ivset)));
        let ivset = ours.find(|(guid, _)| *guid == base.guid)?.1?;
        Some(theirs.ivset == Some(ivset))
    }
}

/// All that the source can send from, by GUID, with its age. Snapshots come before bookmarks of the same.
fn bases(source: &Dataset) -> HashMap<SnapshotGuid, (u64, Base)> {
    let base = |mark, name: &str, guid| Base { path: source.path.clone(), mark, name: name.to_owned(), guid };
    let bookmarks =
        source.bookmarks.iter().map(|b| (b.guid, (b.created_txg, base(Mark::Bookmark, &b.name, b.guid))));
    let snapshots =
        source.snapshots.iter().map(|s| (s.guid, (s.created_txg, base(Mark::Snapshot, &s.name, s.guid))));
    bookmarks.chain(snapshots).collect()
}

fn look<'a>(copy: &'a Dataset, bases: &HashMap<SnapshotGuid, (u64, Base)>) -> Landing<'a> {
    let half_received = copy.half_received.as_ref();
    let state = match copy.tip().map(|tip| bases.get(&tip.guid)) {
        Some(Some((_, base))) => State::Tip(base.clone()),
        None if half_received.is_some() => State::Absent,
        _ => {
            let known = copy.snapshots.iter().rposition(|snapshot| bases.contains_key(&snapshot.guid));
            let newer = copy.snapshots.len() - known.map_or(0, |at| at + 1);
            State::Diverged { common: known.map(|at| copy.snapshots[at].name.clone()), newer }
        }
    };
    Landing { path: copy.path.clone(), state, copy: Some(copy), half_received }
}

fn newest_common(copy: &Dataset, bases: &HashMap<SnapshotGuid, (u64, Base)>) -> Option<(u64, Base)> {
    copy.snapshots.iter().rev().find_map(|snapshot| bases.get(&snapshot.guid)).cloned()
}

/// What was begun beside a path, by number.
fn besides<'a>(path: &str, target: &'a Tree) -> Vec<(u32, &'a Dataset)> {
    let prefix = beside_path(path);
    let numbered = |copy: &'a Dataset| {
        let number = copy.path.strip_prefix(&prefix)?;
        Some((number.parse().ok()?, copy))
    };
    let from = target.datasets().partition_point(|dataset| dataset.path < prefix);
    let near = target.datasets()[from..].iter().take_while(|dataset| dataset.path.starts_with(&prefix));
    let mut found: Vec<(u32, &Dataset)> = near.filter_map(numbered).collect();
    found.sort_by_key(|(number, _)| *number);
    found
}

/// What the paths beside one begin with. Nothing of a tree lies beside its root, so that of the root is below it.
fn beside_path(path: &str) -> String {
    if path.is_empty() { "diverged-".to_owned() } else { format!("{path}.diverged-") }
}
