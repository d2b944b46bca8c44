//! The snapshots that are being made here: each once at a time, and none half made after a crash.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::Volumes;
use uuid::Uuid;

use crate::{Error, Result};

/// What is under way. Each claim has an empty file, by which the next start finds what this process did not finish.
pub(super) struct Claims {
    folder: PathBuf,
    claimed: Mutex<HashSet<SnapshotId>>,
}

impl Claims {
    /// Keeps its files in `folder`, which exists.
    pub(super) fn open(folder: PathBuf) -> Self {
        Self { folder, claimed: Mutex::default() }
    }

    /// `Busy` if it is under way already. The claim ends when the answer is settled or dropped.
    pub(super) fn claim(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Claim<'_>> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if claimed.contains(&snapshot) {
            return Err(Error::Busy(format!("snapshot {snapshot} is already under way to this store")));
        }
        let file = self.folder.join(format!("{}-{}", volume.to_hex(), snapshot.to_hex()));
        File::create(&file).map_err(|source| Error::File {
            action: "write",
            path: file.display().to_string(),
            source,
        })?;
        claimed.insert(snapshot);
        Ok(Claim { claims: self, snapshot, file })
    }

    /// Drops the branches that an earlier process claimed and did not finish.
    pub(super) async fn collect_unfinished(&self, volumes: &Volumes) -> Result<()> {
        let read = |source| Error::File { action: "read", path: self.folder.display().to_string(), source };
        for file in fs::read_dir(&self.folder).map_err(read)? {
            let file = file.map_err(read)?;
            if let Some((volume, snapshot)) = parse(&file.file_name().to_string_lossy())
                && volumes.find(volume, snapshot).await?.is_none()
            {
                if let Err(error) = volumes.drop_branch(volume, snapshot).await {
                    // It is in nobody's way but takes room: no reason to keep all other volumes from being served.
                    tracing::warn!(snapshot.id = %snapshot, %error, "what was not finished stays until the next start");
                    continue;
                }
                tracing::info!(volume.id = %volume, snapshot.id = %snapshot, "dropped what was not finished");
            }
            fs::remove_file(file.path()).map_err(read)?;
        }
        Ok(())
    }
}

fn parse(name: &str) -> Option<(VolumeId, SnapshotId)> {
    let (volume, snapshot) = name.split_once('-')?;
    Some((VolumeId(Uuid::try_parse(volume).ok()?), SnapshotId(Uuid::try_parse(snapshot).ok()?)))
}

/// One snapshot that is being made.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    snapshot: SnapshotId,
    file: PathBuf,
}

impl Claim<'_> {
    /// Says that the snapshot is made, or that nothing of it is left. A claim that ends without this is looked into at
    /// the next start.
    pub(super) fn settle(self) {
        // A file that stays costs that one look at the pool.
        let _ = fs::remove_file(&self.file);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.snapshot);
    }
}
