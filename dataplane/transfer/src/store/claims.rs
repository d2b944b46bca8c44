//! The snapshots that are being made here: each once at a time, and none half made for good after a crash.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::Volumes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, Result, error::in_full, spool::Spool};

/// For so long what is half received waits for somebody who goes on with it.
const KEEP: Duration = Duration::from_hours(24);

/// How often it is looked for what has waited longer.
const LOOK: Duration = Duration::from_hours(1);

/// What is under way. Each claim has a file, by which it is found what was not finished, and when it was begun. It is empty, or
/// the spool of a stream that ZFS cannot go on with.
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
        let file = self.folder.join(format!("{}-{}", volume.to_hex(), snapshot.to_hex()));
        let claim = self
            .take(snapshot, file)
            .ok_or_else(|| Error::Busy(format!("snapshot {snapshot} is already under way to this store")))?;
        // What an earlier attempt left in it may be of use.
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&claim.file);
        file.and_then(|file| file.set_modified(SystemTime::now())).map_err(failed("write", &claim.file))?;
        Ok(claim)
    }

    /// Without a word on disk.
    fn take(&self, snapshot: SnapshotId, file: PathBuf) -> Option<Claim<'_>> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.insert(snapshot).then(|| Claim { claims: self, snapshot, file })
    }

    /// Drops what was not finished, until `stop` is cancelled.
    pub(super) async fn collect_abandoned(&self, volumes: &Volumes, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.collect_unfinished(volumes).await {
                tracing::warn!(error = in_full(&error), "what is half received could not be looked through");
            }
        }
    }

    /// Drops the branches that were claimed, are not finished, and are not under way; and what is half received, unless
    /// somebody may still go on with it.
    pub(super) async fn collect_unfinished(&self, volumes: &Volumes) -> Result<()> {
        self.claim_partials(volumes).await?;
        let read = || failed("read", &self.folder);
        for file in fs::read_dir(&self.folder).map_err(read())? {
            let file = file.map_err(read())?;
            let Some((volume, snapshot)) = parse(&file.file_name().to_string_lossy()) else { continue };
            let Some(claim) = self.take(snapshot, file.path()) else { continue };
            if volumes.find(volume, snapshot).await?.is_none() {
                if is_fresh(&claim.file) && volumes.resumable(volume, snapshot).await?.is_some() {
                    continue;
                }
                if let Err(error) = drop_unfinished(volumes, volume, snapshot).await {
                    // It is in nobody's way but takes room: no reason to keep all other volumes from being served.
                    tracing::warn!(snapshot.id = %snapshot, %error, "what was not finished stays until the next look");
                    continue;
                }
                if is_fresh(&claim.file) && claim.has_spool() {
                    continue;
                }
                tracing::info!(volume.id = %volume, snapshot.id = %snapshot, "dropped what was not finished");
            }
            claim.settle();
        }
        Ok(())
    }

    /// Gives a file to whatever is half received and has none: its time runs from now.
    async fn claim_partials(&self, volumes: &Volumes) -> Result<()> {
        for partial in volumes.partials().await? {
            let file = self.folder.join(format!("{}-{}", partial.volume.to_hex(), partial.snapshot.to_hex()));
            if !file.exists() {
                File::create(&file).map_err(failed("write", &file))?;
            }
        }
        Ok(())
    }
}

async fn drop_unfinished(volumes: &Volumes, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
    volumes.discard_partial(volume, snapshot).await?;
    Ok(volumes.drop_branch(volume, snapshot).await?)
}

/// Whether the last attempt began not long ago. A file that cannot be asked is an old one.
fn is_fresh(file: &Path) -> bool {
    let age = fs::metadata(file).and_then(|file| file.modified()).ok().and_then(|begun| begun.elapsed().ok());
    age.is_some_and(|age| age < KEEP)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.display().to_string();
    move |source| Error::File { action, path, source }
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
    /// Where what arrives is kept for another attempt, unless ZFS itself keeps it.
    pub(super) fn spool(&self, volumes: &Volumes) -> Result<Option<Spool>> {
        if volumes.features().resume {
            return Ok(None);
        }
        Spool::open(&self.file).map(Some).map_err(failed("open", &self.file))
    }

    /// Whether there is anything in it.
    pub(super) fn has_spool(&self) -> bool {
        fs::metadata(&self.file).is_ok_and(|file| file.len() > 0)
    }

    /// Says that the snapshot is made, or that nothing of it is left. A claim that ends without this is looked into
    /// later.
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
