//! Moving a volume's main line forward, and letting branches and volumes go.

use ds_domain::ids::{SnapshotId, VolumeId};

use super::{Volumes, destroy, destroy_tree};
use crate::{
    Error, Failure, Result,
    command::{zfs, zfs_patiently},
    names::{Place, snapshot_name},
    topology::Step,
};

/// An advance takes three steps, and two more for each branch between the main line and the snapshot.
const MOST_STEPS: usize = 1000;

impl Volumes {
    /// Makes `snapshot` the newest of the volume's main line, by promote, destroy and rename of the clone that has it. Nothing to
    /// do where it is on the main line already. Branches that hang on older snapshots stay; a main line that went another way
    /// is kept as a branch. After a crash anywhere in it, the same call goes on.
    ///
    /// Fails with [`Error::Busy`] while the clone is in use or being sent.
    pub async fn advance(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let _lock = self.lock(volume).await;
        self.advance_locked(volume, snapshot).await
    }

    async fn advance_locked(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        for _ in 0..MOST_STEPS {
            let topology = self.topology_of(volume).await?;
            if topology.holding(volume, snapshot).is_none() {
                return Err(Error::SnapshotMissing { volume, snapshot });
            }
            match topology.next_step(volume, snapshot) {
                Some(step) => self.take(step).await?,
                None => return Ok(()),
            }
        }
        let command = format!("advance volume {volume} to {snapshot}");
        Err(Error::Unexpected(Failure { command, said: "the pool never came to rest".to_owned() }))
    }

    async fn take(&self, step: Step) -> Result<()> {
        match step {
            Step::Promote(clone) => zfs(&["promote", &clone]).await.map(drop),
            Step::Destroy(empty) => destroy(&empty).await,
            Step::Rename { from, to } => self.settle_and_rename(&from, to).await,
        }
    }

    /// Unmounts a filesystem, takes away what was written after its newest snapshot (it is part of none, and nothing could be
    /// received on top of it), and renames it.
    pub(super) async fn settle_and_rename(&self, from: &str, to: Place) -> Result<()> {
        self.detach(from).await?;
        let topology = self.topology(&[from]).await?;
        if let Some(tip) = topology.filesystems.first().and_then(|filesystem| filesystem.tip()) {
            zfs_patiently(&["rollback", &snapshot_name(from, tip.id)]).await?;
        }
        if let Place::Branch(volume, _) = to {
            super::create_filesystem(&self.inner.layout.branches(volume), &["-p"]).await?;
        }
        self.rename(from, &self.name(to)).await
    }

    /// `zfs rename`, where it is success that it was done already: a try that was said to be busy may have been carried out all the
    /// same, and then the next one finds nothing to rename.
    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        match zfs_patiently(&["rename", from, to]).await {
            Err(Error::NotFound(_)) if self.exists(to).await? && !self.exists(from).await? => Ok(()),
            result => result.map(drop),
        }
    }

    /// Destroys a branch's snapshot, its reading clone, and the branch if that was all it had; also what an edit or a receive
    /// of it left half-done. What is not here is no error. Fails with [`Error::OnMainLine`] for the main line's snapshots and
    /// with [`Error::HasDependents`] while clones hang on it.
    pub async fn drop_branch(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        self.release_forsaken().await?;
        let _lock = self.lock(volume).await;
        let mut topology = self.topology_of(volume).await?;
        if topology.filesystem(Place::Main(volume)).is_none() && topology.holding(volume, snapshot).is_some()
        {
            // Only an advance that was cut off leaves a volume without a main line: its clone holds the whole history by now.
            self.advance_locked(volume, snapshot).await?;
            topology = self.topology_of(volume).await?;
        }
        let place = Place::Branch(volume, snapshot);
        let here = topology.holding(volume, snapshot).or_else(|| topology.filesystem(place));
        let Some(here) = here else { return Ok(()) };
        if matches!(here.place, Place::Main(_)) {
            return Err(Error::OnMainLine { volume, snapshot });
        }
        self.drop_reading_clone(snapshot).await?;
        if here.snapshots.len() > 1 || matches!(here.place, Place::Task(..)) {
            return destroy(&snapshot_name(&here.name, snapshot)).await;
        }
        self.unmount(&here.name).await?;
        destroy_tree(&here.name).await
    }

    /// Destroys a volume with its branches and reading clones. What is not here is no error. Fails with
    /// [`Error::HasDependents`] while a task works on a clone of it.
    pub async fn drop_volume(&self, volume: VolumeId) -> Result<()> {
        self.release_forsaken().await?;
        let _lock = self.lock(volume).await;
        let layout = &self.inner.layout;
        let (main, branches) = (self.name(Place::Main(volume)), layout.branches(volume));
        loop {
            let topology = self.topology(&[&main, &branches, &layout.tasks(), &layout.readings()]).await?;
            let depends_on = |name: &str| {
                topology
                    .filesystems
                    .iter()
                    .find(|other| other.origin.as_ref().is_some_and(|origin| origin.filesystem == name))
            };
            let ours = |place: Place| matches!(place, Place::Main(_) | Place::Branch(..));
            let Some(mut leaf) = topology.of(volume).find(|filesystem| ours(filesystem.place)) else { break };
            while let Some(clone) = depends_on(&leaf.name) {
                leaf = clone;
            }
            if matches!(leaf.place, Place::Task(..)) {
                let said = format!("{} is a task's clone of it", leaf.name);
                return Err(Error::HasDependents(Failure { command: format!("drop volume {volume}"), said }));
            }
            self.unmount(&leaf.name).await?;
            destroy_tree(&leaf.name).await?;
        }
        destroy_tree(&branches).await
    }

    /// Finishes an advance that was cut off after the clone in `place` had taken over the main line's snapshots.
    pub(super) async fn finish_advance_of(&self, place: Place) -> Result<()> {
        let Some(volume) = place.volume() else { return Ok(()) };
        let topology = self.topology_of(volume).await?;
        match topology.filesystem(place) {
            Some(promoted) if promoted.origin.is_none() => match promoted.tip() {
                Some(tip) => self.advance_locked(volume, tip.id).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::pool;

    #[tokio::test]
    async fn a_rename_that_was_carried_out_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("dstest-{}", Uuid::new_v4().simple());
        pool::create_file_pool(&name, &folder.path().join("pool"), 64 << 20).await.unwrap();
        let volumes = Volumes::open(&name, &folder.path().join("mnt")).await.unwrap();
        let [from, to, nothing] = ["v/from", "v/to", "v/nothing"].map(|last| format!("{name}/{last}"));
        super::super::create_filesystem(&from, &[]).await.unwrap();
        volumes.rename(&from, &to).await.unwrap();
        volumes.rename(&from, &to).await.unwrap();
        let missing = volumes.rename(&from, &nothing).await;
        super::super::create_filesystem(&from, &[]).await.unwrap();
        let taken = volumes.rename(&from, &to).await;
        pool::destroy_pool(&name).await.unwrap();
        assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
        assert!(matches!(taken, Err(Error::Exists(_))), "{taken:?}");
    }
}
