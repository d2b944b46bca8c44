//! Keeping the common ground of two machines: holds under an owner's name, and bookmarks, which outlive their snapshots.
//!
//! An owner stands for one receiver of a volume's streams. Before a send the snapshot is held and bookmarked
//! ([`Volumes::guard_send`]); when it has arrived it is the common ground, and the last one is let go ([`Volumes::keep_sent`]); when
//! it has not, [`Volumes::release`] lets go of it. What owners leave behind that are no more is collected.

use std::collections::BTreeMap;

use ds_domain::ids::{SnapshotId, VolumeId};

use super::{Volumes, ignore_missing};
use crate::{
    Base, Error, Implementation, Result, SendPlan, SnapshotGuid,
    command::{self, zfs},
    names::{Place, bookmark_name, parse_bookmark, snapshot_name},
    topology::Filesystem,
};

/// What the tags of all our owners begin with.
const TAGS: &str = "dotstream:";
/// So many names fit one command with ease.
const NAMES_AT_ONCE: usize = 256;

/// What is left of a snapshot so that a stream can start from it: its GUID and its place in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// The snapshot's id.
    pub snapshot: SnapshotId,
    /// The snapshot's GUID.
    pub guid: SnapshotGuid,
    /// The full name of the filesystem that it is on.
    pub filesystem: String,
    /// As the snapshot's.
    pub created_txg: u64,
}

impl Volumes {
    /// Holds and bookmarks the snapshot that is about to be sent, and holds its base, so that the receiver can always be sent
    /// what comes after. Can be repeated. Without bookmarks (zfs-fuse) the holds alone keep it.
    pub async fn guard_send(&self, plan: &SendPlan, owner: &str) -> Result<()> {
        self.hold(plan.volume, plan.snapshot, owner).await?;
        if let Some(base) = plan.kind.base() {
            match self.hold(plan.volume, base.snapshot, owner).await {
                // Of a bookmark there is nothing to hold.
                Err(error) if error.is_not_found() => {}
                held => held?,
            }
        }
        self.bookmark(plan.volume, plan.snapshot).await
    }

    /// Bookmarks a snapshot, so that a stream can start from it when it is gone. Can be repeated; without bookmarks
    /// (zfs-fuse) nothing happens.
    pub async fn bookmark(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        if !self.features().bookmarks {
            return Ok(());
        }
        let snapshot = self.located(volume, snapshot).await?;
        let bookmark = snapshot.replace('@', "#");
        match zfs(&["bookmark", &snapshot, &bookmark]).await {
            Err(Error::Failed(failure) | Error::Exists(failure))
                if failure.said.contains("bookmark exists") =>
            {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Says that the snapshot has arrived: it stays held as the common ground, and `owner` lets go of its base.
    pub async fn keep_sent(&self, plan: &SendPlan, owner: &str) -> Result<()> {
        match plan.kind.base() {
            Some(base) => self.release(plan.volume, base.snapshot, owner).await,
            None => Ok(()),
        }
    }

    /// The volume's bookmarks, oldest first on each filesystem; none where this ZFS has no bookmarks.
    pub async fn bookmarks(&self, volume: VolumeId) -> Result<Vec<Bookmark>> {
        if !self.features().bookmarks {
            return Ok(Vec::new());
        }
        let datasets = [self.name(Place::Main(volume)), self.inner.layout.branches(volume)];
        let mut arguments =
            vec!["list", "-Hp", "-r", "-t", "bookmark", "-s", "createtxg", "-o", "name,guid,createtxg"];
        arguments.extend(datasets.iter().map(String::as_str));
        let mut bookmarks = Vec::new();
        match command::zfs_lines(&arguments, &mut |line| bookmarks.extend(read_bookmark(line))).await {
            Ok(()) | Err(Error::NotFound(_)) => Ok(bookmarks),
            Err(error) => Err(error),
        }
    }

    /// Destroys the volume's bookmarks but those that a receiver still needs (what it has as its newest); gives how many that were.
    pub async fn prune_bookmarks(&self, volume: VolumeId, needed: &[SnapshotGuid]) -> Result<usize> {
        let mut pruned = 0;
        for bookmark in self.bookmarks(volume).await? {
            if !needed.contains(&bookmark.guid) {
                let name = bookmark_name(&bookmark.filesystem, bookmark.snapshot);
                ignore_missing(zfs(&["destroy", &name]).await)?;
                pruned += 1;
            }
        }
        Ok(pruned)
    }

    /// Destroys the oldest bookmarks of each of the volume's filesystems that has more than `most`.
    pub async fn limit_bookmarks(&self, volume: VolumeId, most: usize) -> Result<()> {
        let mut of: BTreeMap<String, usize> = BTreeMap::new();
        for bookmark in self.bookmarks(volume).await?.iter().rev() {
            let newer = of.entry(bookmark.filesystem.clone()).or_default();
            if *newer >= most {
                let name = bookmark_name(&bookmark.filesystem, bookmark.snapshot);
                ignore_missing(zfs(&["destroy", &name]).await)?;
            }
            *newer += 1;
        }
        Ok(())
    }

    /// Lets go of everything that owners hold of whom `is_gone` says so; gives how many holds that were. On zfs-fuse,
    /// which cannot list holds, it fails with [`Error::Unsupported`]: there [`Volumes::release_all`] lets go of one
    /// known owner's.
    pub async fn collect_holds(&self, is_gone: &(dyn Fn(&str) -> bool + Sync)) -> Result<usize> {
        if self.features().implementation == Implementation::ZfsFuse {
            let version = self.features().version.clone();
            return Err(Error::Unsupported { version, what: "a listing of holds (OpenZFS)" });
        }
        let stale = |tag: &str| tag.strip_prefix(TAGS).is_some_and(is_gone);
        let mut collected = 0;
        for names in self.held().await?.chunks(NAMES_AT_ONCE) {
            let mut snapshots_by_tag: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let arguments = with_names(&["holds", "-H"], names);
            let mut sort = |line: &str| {
                let mut columns = line.split('\t');
                if let (Some(snapshot), Some(tag)) = (columns.next(), columns.next())
                    && stale(tag)
                {
                    snapshots_by_tag.entry(tag.to_owned()).or_default().push(snapshot.to_owned());
                }
            };
            match command::zfs_lines(&arguments, &mut sort).await {
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            for (tag, snapshots) in snapshots_by_tag {
                release(&with_names(&["release", &tag], &snapshots)).await?;
                collected += snapshots.len();
            }
        }
        Ok(collected)
    }

    /// Keeps a snapshot from being destroyed until `owner` (letters, digits and `-_.:`) lets go of it. Can be repeated.
    pub async fn hold(&self, volume: VolumeId, snapshot: SnapshotId, owner: &str) -> Result<()> {
        let name = self.located(volume, snapshot).await?;
        match zfs(&["hold", &tag(owner), &name]).await {
            Err(Error::Failed(failure) | Error::Exists(failure))
                if failure.said.contains("tag already exists") =>
            {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Lets go of a snapshot. One that is not held by `owner`, or not here, is no error.
    pub async fn release(&self, volume: VolumeId, snapshot: SnapshotId, owner: &str) -> Result<()> {
        match self.located(volume, snapshot).await {
            Ok(name) => release(&["release", &tag(owner), &name]).await,
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets go of everything that `owner` holds: what it left when it crashed.
    pub async fn release_all(&self, owner: &str) -> Result<()> {
        // zfs-fuse counts the holds of a snapshot but cannot list them, so it is tried on each that has any.
        for name in self.held().await? {
            release(&["release", &tag(owner), &name]).await?;
        }
        Ok(())
    }

    /// What a stream from `base` to a snapshot of this filesystem is told to start from.
    pub(super) async fn base_name(&self, here: &Filesystem, base: Base) -> Result<Option<String>> {
        if here.point(base.snapshot).is_some_and(|point| point.guid == base.guid) {
            return Ok(Some(snapshot_name(&here.name, base.snapshot)));
        }
        if !self.features().bookmarks {
            return Ok(None);
        }
        let bookmark = bookmark_name(&here.name, base.snapshot);
        match self.property(&bookmark, "guid").await {
            Ok(guid) => Ok((guid == base.guid.to_string()).then_some(bookmark)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all snapshots that somebody holds, from one listing.
    async fn held(&self) -> Result<Vec<String>> {
        let arguments = ["get", "-Hp", "-r", "-o", "name,value", "userrefs", self.inner.layout.root()];
        let mut held = Vec::new();
        command::zfs_lines(&arguments, &mut |line| {
            let counted = line.split_once('\t').filter(|(_, count)| !matches!(*count, "0" | "-"));
            held.extend(counted.map(|(name, _)| name.to_owned()));
        })
        .await?;
        Ok(held)
    }

    async fn located(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<String> {
        let topology = self.topology_of(volume).await?;
        let filesystem =
            topology.holding(volume, snapshot).ok_or(Error::SnapshotMissing { volume, snapshot })?;
        Ok(snapshot_name(&filesystem.name, snapshot))
    }
}

fn tag(owner: &str) -> String {
    format!("{TAGS}{owner}")
}

fn with_names<'a>(command: &[&'a str], names: &'a [String]) -> Vec<&'a str> {
    command.iter().copied().chain(names.iter().map(String::as_str)).collect()
}

/// `zfs release`, which goes on with the others where one is not held.
async fn release(arguments: &[&str]) -> Result<()> {
    match zfs(arguments).await {
        Err(Error::Failed(failure)) if failure.said.contains("no such tag") => Ok(()),
        result => ignore_missing(result),
    }
}

/// `None` for somebody's own.
fn read_bookmark(line: &str) -> Option<Bookmark> {
    let mut columns = line.split('\t');
    let (filesystem, snapshot) = parse_bookmark(columns.next()?)?;
    Some(Bookmark {
        snapshot,
        guid: SnapshotGuid(columns.next()?.parse().ok()?),
        filesystem: filesystem.to_owned(),
        created_txg: columns.next()?.parse().ok()?,
    })
}
