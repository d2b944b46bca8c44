//! From which base a snapshot is sent. Pure.

use ds_domain::ids::{SnapshotId, VolumeId};

use crate::{Bookmark, Snapshot, SnapshotGuid, StreamMode};

/// A snapshot of the volume that the receiver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Have {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its GUID there.
    pub guid: SnapshotGuid,
    /// Newest of its filesystem there.
    pub tip: bool,
    /// How its filesystem came there; `None` for one that was made there, which goes on in any mode.
    pub mode: Option<StreamMode>,
}

/// Of a filesystem that was made where the snapshot is; [`crate::Volumes::haves`] knows others.
impl From<&Snapshot> for Have {
    fn from(ours: &Snapshot) -> Self {
        Self { snapshot: ours.id, guid: ours.guid, tip: ours.tip, mode: None }
    }
}

/// What a stream starts from; sender and receiver must both have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its GUID.
    pub guid: SnapshotGuid,
}

/// What a stream is made of, and by that what it can be received on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Everything. Makes a new filesystem.
    Full,
    /// The difference between two snapshots of one filesystem. Lands on the filesystem whose newest snapshot is the base.
    Incremental(Base),
    /// The difference between a clone and its origin, the base. Makes a new filesystem, itself a clone of the base.
    Clone(Base),
}

impl StreamKind {
    /// What it starts from.
    pub fn base(self) -> Option<Base> {
        match self {
            Self::Full => None,
            Self::Incremental(base) | Self::Clone(base) => Some(base),
        }
    }
}

/// One stream: what it brings and what it starts from. Both ends work from an equal one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendPlan {
    /// Whose.
    pub volume: VolumeId,
    /// What it brings.
    pub snapshot: SnapshotId,
    /// The GUID that it must have when it has arrived.
    pub guid: SnapshotGuid,
    /// What it starts from.
    pub kind: StreamKind,
    /// How its blocks travel.
    pub mode: StreamMode,
}

impl SendPlan {
    /// The same stream with blocks that travel so.
    #[must_use]
    pub fn with_mode(self, mode: StreamMode) -> Self {
        Self { mode, ..self }
    }
}

/// Picks the stream that brings `target`, one of `ours`, to somebody who has `theirs`: from the newest snapshot of the same
/// filesystem that they can receive onto, else from the origin of its clone, else a full one. A base counts only if its GUID is
/// equal on both sides. The mode is plain: [`SendPlan::with_mode`] sets what the two agreed on.
pub fn plan_send(target: &Snapshot, ours: &[Snapshot], theirs: &[Have]) -> SendPlan {
    plan_send_from(target, ours, &[], theirs)
}

/// The same, where `bookmarks` remember snapshots that are gone here: a stream can start from one as well, but a snapshot comes
/// first.
pub fn plan_send_from(
    target: &Snapshot,
    ours: &[Snapshot],
    bookmarks: &[Bookmark],
    theirs: &[Have],
) -> SendPlan {
    let snapshots = ours.iter().map(Candidate::from);
    let bookmarks = bookmarks.iter().map(Candidate::from);
    let kind = incremental(target, snapshots, theirs)
        .or_else(|| incremental(target, bookmarks, theirs))
        .or_else(|| clone(target, ours, theirs))
        .unwrap_or(StreamKind::Full);
    SendPlan { volume: target.volume, snapshot: target.id, guid: target.guid, kind, mode: StreamMode::PLAIN }
}

/// What an incremental stream may start from.
struct Candidate<'a> {
    base: Base,
    filesystem: &'a str,
    created_txg: u64,
}

impl<'a> From<&'a Snapshot> for Candidate<'a> {
    fn from(ours: &'a Snapshot) -> Self {
        let base = Base { snapshot: ours.id, guid: ours.guid };
        Self { base, filesystem: &ours.filesystem, created_txg: ours.created_txg }
    }
}

impl<'a> From<&'a Bookmark> for Candidate<'a> {
    fn from(ours: &'a Bookmark) -> Self {
        let base = Base { snapshot: ours.snapshot, guid: ours.guid };
        Self { base, filesystem: &ours.filesystem, created_txg: ours.created_txg }
    }
}

fn incremental<'a>(
    target: &Snapshot,
    starts: impl Iterator<Item = Candidate<'a>>,
    theirs: &[Have],
) -> Option<StreamKind> {
    let older = |start: &Candidate<'_>| {
        start.filesystem == target.filesystem && start.created_txg < target.created_txg
    };
    let can_land = |start: &Candidate<'_>| theirs.iter().any(|have| have.tip && same(have, start.base));
    let newest = starts.filter(older).filter(can_land).max_by_key(|start| start.created_txg)?;
    Some(StreamKind::Incremental(newest.base))
}

fn clone(target: &Snapshot, ours: &[Snapshot], theirs: &[Have]) -> Option<StreamKind> {
    let origin = target.origin.as_ref()?;
    let base = ours.iter().find(|ours| ours.filesystem == origin.filesystem && ours.id == origin.snapshot)?;
    let base = Base { snapshot: base.id, guid: base.guid };
    theirs.iter().any(|have| same(have, base)).then_some(StreamKind::Clone(base))
}

fn same(have: &Have, base: Base) -> bool {
    (have.snapshot, have.guid) == (base.snapshot, base.guid)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::Origin;

    fn id(n: u64) -> SnapshotId {
        SnapshotId(Uuid::from_u128(n.into()))
    }

    fn ours(filesystem: &str, n: u64, tip: bool) -> Snapshot {
        Snapshot {
            volume: VolumeId(Uuid::from_u128(0xf)),
            id: id(n),
            guid: SnapshotGuid(n),
            filesystem: filesystem.to_owned(),
            main: filesystem == "main",
            tip,
            used_bytes: 0,
            created_txg: n,
            origin: None,
        }
    }

    fn cloned_from(mut snapshot: Snapshot, filesystem: &str, n: u64) -> Snapshot {
        snapshot.origin = Some(Origin { filesystem: filesystem.to_owned(), snapshot: id(n) });
        snapshot
    }

    fn main_line() -> Vec<Snapshot> {
        vec![ours("main", 1, false), ours("main", 2, false), ours("main", 3, true)]
    }

    fn have(n: u64, tip: bool) -> Have {
        Have { snapshot: id(n), guid: SnapshotGuid(n), tip, mode: None }
    }

    fn base(n: u64) -> Base {
        Base { snapshot: id(n), guid: SnapshotGuid(n) }
    }

    fn kind(target: &Snapshot, ours: &[Snapshot], theirs: &[Have]) -> StreamKind {
        plan_send(target, ours, theirs).kind
    }

    #[test]
    fn nothing_in_common_is_a_full_stream() {
        let line = main_line();
        assert_eq!(kind(&line[2], &line, &[]), StreamKind::Full);
        assert_eq!(kind(&line[2], &line, &[have(9, true)]), StreamKind::Full);
    }

    #[test]
    fn the_receivers_tip_is_the_base() {
        let line = main_line();
        assert_eq!(kind(&line[2], &line, &[have(1, true)]), StreamKind::Incremental(base(1)));
        assert_eq!(kind(&line[2], &line, &[have(1, false), have(2, true)]), StreamKind::Incremental(base(2)));
        assert_eq!(
            kind(&line[1], &line, &[have(3, true), have(1, false)]),
            StreamKind::Full,
            "their tip is newer than the target"
        );
        assert_eq!(
            kind(&line[2], &line, &[have(1, false), have(9, true)]),
            StreamKind::Full,
            "their line went another way"
        );
    }

    #[test]
    fn an_equal_id_with_another_guid_is_no_base() {
        let line = main_line();
        let theirs = [Have { guid: SnapshotGuid(77), ..have(2, true) }];
        assert_eq!(kind(&line[2], &line, &theirs), StreamKind::Full);
    }

    #[test]
    fn a_clone_comes_from_its_origin_whether_tip_or_not() {
        let mut all = main_line();
        all.push(cloned_from(ours("branch", 4, true), "main", 2));
        assert_eq!(kind(&all[3], &all, &[have(2, false), have(3, true)]), StreamKind::Clone(base(2)));
        assert_eq!(kind(&all[3], &all, &[have(1, true)]), StreamKind::Full, "only the origin itself will do");
    }

    #[test]
    fn an_older_snapshot_of_the_same_branch_comes_before_the_origin() {
        let mut all = main_line();
        all.push(cloned_from(ours("branch", 4, false), "main", 2));
        all.push(cloned_from(ours("branch", 5, true), "main", 2));
        assert_eq!(kind(&all[4], &all, &[have(2, false), have(4, true)]), StreamKind::Incremental(base(4)));
    }

    #[test]
    fn a_bookmark_stands_in_for_a_snapshot_that_is_gone() {
        let line = [ours("main", 3, false), ours("main", 4, true)];
        let bookmark = |n: u64, filesystem: &str| Bookmark {
            snapshot: id(n),
            guid: SnapshotGuid(n),
            filesystem: filesystem.to_owned(),
            created_txg: n,
        };
        let kind =
            |bookmarks: &[Bookmark], theirs: &[Have]| plan_send_from(&line[1], &line, bookmarks, theirs).kind;
        assert_eq!(kind(&[bookmark(2, "main")], &[have(2, true)]), StreamKind::Incremental(base(2)));
        assert_eq!(kind(&[bookmark(2, "other")], &[have(2, true)]), StreamKind::Full);
        assert_eq!(kind(&[bookmark(2, "main")], &[have(2, false)]), StreamKind::Full);
        let both = [have(2, true), have(3, true)];
        assert_eq!(kind(&[bookmark(2, "main")], &both), StreamKind::Incremental(base(3)));
    }
}
