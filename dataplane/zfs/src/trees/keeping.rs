//! What stays of a tree's snapshots: bookmarks of what was sent, and no more than a grid keeps.

use super::{LocalTree, marked};
use crate::{
    Error, Result,
    command::{self, zfs},
    replication::Expired,
    volumes::{destroy, ignore_missing},
};

/// What the names of our bookmarks begin with, before their owner's.
const BOOKMARKS: &str = "dssync:";

impl LocalTree {
    /// Remembers a snapshot that has arrived at `owner`, as a bookmark that outlives it, instead of the one before.
    /// Does nothing where this ZFS has no bookmarks. `owner` (letters, digits and `-_.`) stands for one receiver.
    pub async fn bookmark(&self, path: &str, snapshot: &str, owner: &str) -> Result<()> {
        if !self.features().bookmarks {
            return Ok(());
        }
        let dataset = self.dataset(path)?;
        let prefix = format!("{BOOKMARKS}{owner}:");
        let bookmark = marked(&dataset, '#', &format!("{prefix}{snapshot}"))?;
        match zfs(&["bookmark", &marked(&dataset, '@', snapshot)?, &bookmark]).await {
            Err(Error::Failed(failure) | Error::Exists(failure))
                if failure.said.contains("bookmark exists") => {}
            result => drop(result?),
        }
        let mut older = Vec::new();
        let arguments = ["list", "-H", "-d", "1", "-t", "bookmark", "-o", "name", &dataset];
        command::zfs_lines(&arguments, &mut |name| {
            let ours = name.split_once('#').is_some_and(|(_, mark)| mark.starts_with(&prefix));
            older.extend((ours && name != bookmark).then(|| name.to_owned()));
        })
        .await?;
        for name in older {
            ignore_missing(zfs(&["destroy", &name]).await)?;
        }
        Ok(())
    }

    /// Destroys snapshots; gives how many. Those that are held, or that clones hang on, by now stay.
    pub async fn destroy_snapshots(&self, expired: &Expired) -> Result<u64> {
        let dataset = self.dataset(&expired.path)?;
        let mut destroyed = 0;
        for name in &expired.snapshots {
            match destroy(&marked(&dataset, '@', name)?).await {
                Ok(()) => destroyed += 1,
                Err(Error::Busy(_) | Error::HasDependents(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(destroyed)
    }
}
