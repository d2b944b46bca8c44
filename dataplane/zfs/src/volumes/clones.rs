//! Mounted clones: a task's to work in, one to read a snapshot, one to edit a volume.

use std::path::{Path, PathBuf};

use ds_domain::ids::{SnapshotId, TaskId, VolumeId};

use super::{Volumes, create_filesystem, destroy, destroy_tree};
use crate::{
    Error, MODE_PROPERTY, Result, SnapshotGuid,
    command::{zfs, zfs_patiently},
    names::{self, Place, snapshot_name},
};

impl Volumes {
    /// A task's working clone of a snapshot, mounted; made if it is not there. Gives its mountpoint.
    pub async fn clone_for_task(&self, task: TaskId, volume: VolumeId, base: SnapshotId) -> Result<PathBuf> {
        create_filesystem(&self.inner.layout.task(task), &[]).await?;
        self.mounted_clone(Place::Task(task, volume), volume, base, &[]).await
    }

    /// Where a task's clone is mounted; `None` where there is no such clone.
    pub async fn task_mountpoint(&self, task: TaskId, volume: VolumeId) -> Result<Option<PathBuf>> {
        let place = Place::Task(task, volume);
        if !self.exists(&self.name(place)).await? {
            return Ok(None);
        }
        self.mount(place).await.map(Some)
    }

    /// Takes one atomic snapshot over all of a task's clones, unless it was taken; gives the GUID that it has on `volume`.
    pub async fn snapshot_task(
        &self,
        task: TaskId,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<SnapshotGuid> {
        let clone = self.name(Place::Task(task, volume));
        let name = snapshot_name(&self.inner.layout.task(task), snapshot);
        match self.zfs_with_reserve(&["snapshot", "-r", &name]).await {
            Ok(_) | Err(Error::Exists(_)) => self.guid(&clone, snapshot).await,
            Err(error) => Err(error),
        }
    }

    /// Destroys a task's clones with their snapshots. A clone that something else hangs on becomes a branch, and an advance that
    /// was cut off is finished first. A task that is not here is no error.
    pub async fn drop_task(&self, task: TaskId) -> Result<()> {
        self.release_forsaken().await?;
        let folder = self.inner.layout.task(task);
        let topology = self.topology(&[&folder]).await?;
        for clone in &topology.filesystems {
            let Place::Task(_, volume) = clone.place else { continue };
            let _lock = self.lock(volume).await;
            self.finish_advance_of(clone.place).await?;
            if !self.exists(&clone.name).await? {
                continue;
            }
            self.unmount(&clone.name).await?;
            match (destroy_tree(&clone.name).await, clone.tip()) {
                (Err(Error::HasDependents(_)), Some(tip)) => {
                    self.settle_and_rename(&clone.name, Place::Branch(volume, tip.id)).await?;
                }
                (result, _) => result?,
            }
        }
        destroy_tree(&folder).await?;
        remove_folder(&self.mountpoint_of(&folder)).await;
        self.restore_reserve().await
    }

    /// The tasks that have clones here.
    pub async fn tasks(&self) -> Result<Vec<TaskId>> {
        let folder = self.inner.layout.tasks();
        Ok(children(&folder).await?.iter().filter_map(|name| names::hex(name)).map(TaskId).collect())
    }

    /// A read-only clone of a snapshot, mounted; made if it is not there. Gives its mountpoint.
    pub async fn reading_clone(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<PathBuf> {
        let options = [&["-o", "readonly=on"], self.mount_limits()].concat();
        self.mounted_clone(Place::Reading(snapshot), volume, snapshot, &options).await
    }

    /// Destroys the read-only clone of a snapshot. One that is not here is no error; one that is being read is
    /// [`Error::Busy`].
    pub async fn drop_reading_clone(&self, snapshot: SnapshotId) -> Result<()> {
        let name = self.name(Place::Reading(snapshot));
        self.unmount(&name).await?;
        destroy(&name).await
    }

    /// The snapshots that have a read-only clone here.
    pub async fn reading_clones(&self) -> Result<Vec<SnapshotId>> {
        let folder = self.inner.layout.readings();
        Ok(children(&folder).await?.iter().filter_map(|name| names::hex(name)).map(SnapshotId).collect())
    }

    /// A fresh clone of `base`, mounted, that [`Volumes::commit_edit`] makes the branch of `snapshot`. What an earlier edit of the
    /// same snapshot left is thrown away; [`Volumes::drop_branch`] gives an edit up.
    pub async fn editing_clone(
        &self,
        volume: VolumeId,
        base: SnapshotId,
        snapshot: SnapshotId,
    ) -> Result<PathBuf> {
        if self.find(volume, snapshot).await?.is_some() {
            return Err(Error::AlreadyHere { volume, snapshot });
        }
        let place = Place::Branch(volume, snapshot);
        let name = self.name(place);
        self.unmount(&name).await?;
        destroy(&name).await?;
        create_filesystem(&self.inner.layout.branches(volume), &[]).await?;
        self.mounted_clone(place, volume, base, self.mount_limits()).await
    }

    /// For what is mounted only to look at or to write files: a task's device nodes are none here.
    fn mount_limits(&self) -> &'static [&'static str] {
        if self.features().mount_limits { &["-o", "devices=off", "-o", "setuid=off"] } else { &[] }
    }

    /// Takes the snapshot of an edit and unmounts it; gives the snapshot's GUID. Can be repeated.
    pub async fn commit_edit(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotGuid> {
        let _lock = self.lock(volume).await;
        if let Some(here) = self.topology_of(volume).await?.holding(volume, snapshot) {
            self.detach(&here.name).await?;
            return self.guid(&here.name, snapshot).await;
        }
        let name = self.name(Place::Branch(volume, snapshot));
        zfs(&["snapshot", &snapshot_name(&name, snapshot)]).await?;
        self.detach(&name).await?;
        self.guid(&name, snapshot).await
    }

    async fn mounted_clone(
        &self,
        place: Place,
        volume: VolumeId,
        base: SnapshotId,
        options: &[&str],
    ) -> Result<PathBuf> {
        let _lock = self.lock(volume).await;
        let name = self.name(place);
        if !self.exists(&name).await? {
            let topology = self.topology_of(volume).await?;
            let Some(from) = topology.holding(volume, base) else {
                return Err(Error::SnapshotMissing { volume, snapshot: base });
            };
            let base = snapshot_name(&from.name, base);
            let mountpoint = format!("mountpoint={}", self.inner.layout.mountpoint(place).display());
            // It may become the main line, which goes on as it was received.
            let mode = self.chain(&from.name).await?.mode.map(|mode| format!("{MODE_PROPERTY}={mode}"));
            let mut arguments = vec!["clone", "-o", &mountpoint];
            arguments.extend(mode.iter().flat_map(|mode| ["-o", mode.as_str()]));
            arguments.extend(options);
            arguments.extend([base.as_str(), name.as_str()]);
            zfs(&arguments).await?;
        }
        self.mount(place).await
    }

    /// Mounts a clone where it belongs, unless it is mounted: after a reboot, or after a crash between clone and mount.
    async fn mount(&self, place: Place) -> Result<PathBuf> {
        let (name, mountpoint) = (self.name(place), self.inner.layout.mountpoint(place));
        let wanted = mountpoint.display().to_string();
        if self.property(&name, "mountpoint").await? != wanted {
            zfs_patiently(&["set", &format!("mountpoint={wanted}"), &name]).await?;
        }
        if self.property(&name, "mounted").await? != "yes" {
            zfs(&["mount", &name]).await?;
        }
        Ok(mountpoint)
    }

    /// Unmounts a filesystem that is about to be destroyed. Unlike [`Volumes::detach`] it writes no property: a full pool refuses
    /// that, and it is then that things are dropped. One that is not here is no error.
    pub(super) async fn unmount(&self, name: &str) -> Result<()> {
        let mounted = match self.property(name, "mounted").await {
            Err(Error::NotFound(_)) => return Ok(()),
            mounted => mounted? == "yes",
        };
        if mounted {
            let mountpoint = self.property(name, "mountpoint").await?;
            zfs_patiently(&["unmount", name]).await?;
            remove_folder(Path::new(&mountpoint)).await;
        }
        Ok(())
    }

    /// Unmounts a filesystem for good, waiting a few seconds while it is busy. One that is not here is no error.
    pub(super) async fn detach(&self, name: &str) -> Result<()> {
        let mounted = match self.property(name, "mounted").await {
            Err(Error::NotFound(_)) => return Ok(()),
            mounted => mounted? == "yes",
        };
        let mountpoint = self.property(name, "mountpoint").await?;
        if mounted {
            zfs_patiently(&["unmount", name]).await?;
        }
        if mountpoint != "none" {
            zfs_patiently(&["inherit", "mountpoint", name]).await?;
            remove_folder(Path::new(&mountpoint)).await;
        }
        Ok(())
    }

    fn mountpoint_of(&self, folder: &str) -> PathBuf {
        let below = folder.strip_prefix(self.inner.layout.root()).unwrap_or(folder);
        self.inner.layout.mount_dir().join(below.trim_start_matches('/'))
    }
}

/// Takes an empty mountpoint away. It is only tidiness, so a failure is nobody's concern, and a folder with content stays.
async fn remove_folder(path: &Path) {
    let _ = tokio::fs::remove_dir(path).await;
}

/// The last components of the filesystems right below one.
async fn children(folder: &str) -> Result<Vec<String>> {
    let listing = zfs(&["list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name", folder]).await?;
    let below = listing.lines().filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/'));
    Ok(below.map(str::to_owned).collect())
}
