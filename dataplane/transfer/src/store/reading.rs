//! Snapshots that are mounted for reading, as long as somebody reads and a little longer.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::Volumes;
use tokio::{sync::OwnedMutexGuard, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// A person who looks at files looks at several.
const IDLE: Duration = Duration::from_mins(1);

/// The read-only clones of this store.
pub(super) struct ReadingClones {
    volumes: Volumes,
    /// One for each snapshot whose clone is being made or dropped, so that the two never meet.
    changing: Mutex<HashMap<SnapshotId, Weak<tokio::sync::Mutex<()>>>>,
    clones: Arc<Mutex<HashMap<SnapshotId, Mounted>>>,
}

struct Mounted {
    volume: VolumeId,
    path: PathBuf,
    readers: usize,
    last_used: Instant,
}

impl ReadingClones {
    pub(super) fn new(volumes: Volumes) -> Self {
        Self { volumes, changing: Mutex::default(), clones: Arc::default() }
    }

    /// Mounts a snapshot, or joins those who read it. It stays until the answer is dropped, and [`IDLE`] longer.
    pub(super) async fn open(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Reading> {
        let _changing = self.change(snapshot).await;
        let known = self.clones().get(&snapshot).is_some_and(|mounted| mounted.volume == volume);
        if !known {
            if self.volumes.find(volume, snapshot).await?.is_none() {
                return Err(Error::NoSnapshot(snapshot));
            }
            let path = self.volumes.reading_clone(volume, snapshot).await?;
            let mounted = Mounted { volume, path, readers: 0, last_used: Instant::now() };
            self.clones().insert(snapshot, mounted);
        }
        let mut clones = self.clones();
        let mounted = clones.get_mut(&snapshot).expect("present, and only removed while its lock is held");
        mounted.readers += 1;
        Ok(Reading { clones: Arc::clone(&self.clones), snapshot, path: mounted.path.clone() })
    }

    /// Unmounts a snapshot that is about to be destroyed. `Busy` if somebody reads it.
    pub(super) async fn release(&self, snapshot: SnapshotId) -> Result<()> {
        let _changing = self.change(snapshot).await;
        match self.clones().get(&snapshot).map(|mounted| mounted.readers) {
            None => return Ok(()),
            Some(0) => {}
            Some(_) => return Err(Error::Busy(format!("files of snapshot {snapshot} are being read"))),
        }
        self.drop_clone(snapshot).await
    }

    /// The same for all snapshots of a volume.
    pub(super) async fn release_volume(&self, volume: VolumeId) -> Result<()> {
        for snapshot in self.matching(|mounted| mounted.volume == volume) {
            self.release(snapshot).await?;
        }
        Ok(())
    }

    /// Drops what nobody has read for a while, until `stop`.
    pub(super) async fn collect_idle(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(IDLE / 4)).await.is_some() {
            for snapshot in
                self.matching(|mounted| mounted.readers == 0 && mounted.last_used.elapsed() >= IDLE)
            {
                // Somebody may have come in the meantime; the next round sees to the rest.
                if let Err(error) = self.release(snapshot).await {
                    tracing::debug!(snapshot.id = %snapshot, %error, "a reading clone stays");
                }
            }
        }
    }

    /// Drops all, when nobody reads any more.
    pub(super) async fn drop_all(&self) {
        for snapshot in self.matching(|_| true) {
            if let Err(error) = self.release(snapshot).await {
                tracing::warn!(snapshot.id = %snapshot, %error, "a reading clone stays until the next start");
            }
        }
    }

    /// Waits until nobody else makes or drops this snapshot's clone; all others go on meanwhile.
    async fn change(&self, snapshot: SnapshotId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let known = changing.get(&snapshot).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                changing.retain(|_, lock| lock.strong_count() > 0);
                let lock = Arc::default();
                changing.insert(snapshot, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    async fn drop_clone(&self, snapshot: SnapshotId) -> Result<()> {
        self.volumes.drop_reading_clone(snapshot).await?;
        self.clones().remove(&snapshot);
        Ok(())
    }

    fn matching(&self, wanted: impl Fn(&Mounted) -> bool) -> Vec<SnapshotId> {
        self.clones().iter().filter(|(_, mounted)| wanted(mounted)).map(|(id, _)| *id).collect()
    }

    fn clones(&self) -> MutexGuard<'_, HashMap<SnapshotId, Mounted>> {
        self.clones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mounted snapshot.
pub(super) struct Reading {
    clones: Arc<Mutex<HashMap<SnapshotId, Mounted>>>,
    snapshot: SnapshotId,
    path: PathBuf,
}

impl Reading {
    /// Where its files are.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut clones = self.clones.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounted) = clones.get_mut(&self.snapshot) {
            mounted.readers -= 1;
            mounted.last_used = Instant::now();
        }
    }
}
