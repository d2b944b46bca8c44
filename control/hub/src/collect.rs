//! Drops at the store what nothing points at: results of tasks that ended otherwise, uploads that came too late,
//! volumes of projects and datasets that were not made after all, or are deleted.
//!
//! A snapshot or a volume goes only if two rounds in a row found it unused: what is under way (an upload between
//! its snapshot and its commit, at this hub or another) is recorded long before the second. With a database that was
//! restored and is older than the store, all that came after it would look unused: then nothing is to be dropped
//! ([`Unknown::Keep`]).

use std::{collections::HashSet, time::Duration};

use ds_domain::{SnapshotId, VolumeId};

use crate::{clock::now_ms, config::Unknown, core::Core, error::chain, store_clock::store_answers};

/// Between two rounds.
const ROUND: Duration = Duration::from_mins(10);

/// Collects until the hub stops.
pub(crate) async fn run(core: &Core) {
    tokio::select! {
        () = core.shutdown.cancelled() => {}
        () = collect(core) => {}
    }
}

async fn collect(core: &Core) {
    let mut unused = Unused::default();
    loop {
        store_answers(core).await;
        unused = round(core, &unused).await;
        match core.db.delete_expired_sessions(now_ms()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot sessions that are over"),
            Err(error) => tracing::warn!(error = %chain(&error), "sessions that are over stay for now"),
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// What a round found unused and left.
#[derive(Debug, Default, PartialEq)]
struct Unused {
    snapshots: HashSet<SnapshotId>,
    volumes: HashSet<VolumeId>,
}

/// One round over all volumes: drops what `before` has too, and returns what is unused now.
async fn round(core: &Core, before: &Unused) -> Unused {
    let mut unused = Unused::default();
    let (stored, known) = match volumes(core).await {
        Ok(volumes) => volumes,
        Err(why) => {
            tracing::warn!(why, "cannot look for what is unused at the store");
            return unused;
        }
    };
    for volume in stored {
        if known.contains(&volume) {
            drop_unused_of(core, volume, &before.snapshots, &mut unused.snapshots).await;
        } else if before.volumes.contains(&volume) {
            drop_volume(core, volume).await;
        } else {
            unused.volumes.insert(volume);
        }
    }
    unused
}

/// The volumes that the store has, and those that a project or dataset has. Asked for in this order, so that one that is
/// being made now is not only in the first.
async fn volumes(core: &Core) -> Result<(Vec<VolumeId>, HashSet<VolumeId>), String> {
    let stored = core.store.list_volumes().await.map_err(|error| chain(&error))?;
    let projects = core.db.project_rows().await.map_err(|error| chain(&error))?;
    Ok((stored, projects.iter().map(|project| project.workspace).collect()))
}

async fn drop_unused_of(
    core: &Core,
    volume: VolumeId,
    before: &HashSet<SnapshotId>,
    unused: &mut HashSet<SnapshotId>,
) {
    match unused_of(core, volume).await {
        Ok(found) => {
            for snapshot in found {
                if before.contains(&snapshot) {
                    drop_snapshot(core, volume, snapshot).await;
                } else {
                    unused.insert(snapshot);
                }
            }
        }
        Err(why) => tracing::warn!(volume.id = %volume, why, "cannot look for unused snapshots"),
    }
}

async fn drop_volume(core: &Core, volume: VolumeId) {
    if core.unknown == Unknown::Keep {
        return tracing::warn!(volume.id = %volume, "no project or dataset has this volume at the store; it is kept");
    }
    match core.store.drop_volume(volume).await {
        Ok(()) => tracing::info!(volume.id = %volume, "dropped a volume that no project or dataset has"),
        Err(error) => {
            tracing::warn!(volume.id = %volume, error = %chain(&error), "an unused volume stays for now");
        }
    }
}

/// The snapshots of a volume that no commit has and that no live task is about to commit.
async fn unused_of(core: &Core, volume: VolumeId) -> Result<Vec<SnapshotId>, String> {
    let stored = core.store.list_snapshots(volume).await.map_err(|error| chain(&error))?;
    let live = core.db.assigned_tasks().await.map_err(|error| chain(&error))?;
    let awaited: HashSet<SnapshotId> = live.iter().map(|row| row.result).collect();
    let mut unused = Vec::new();
    for stored in stored {
        let snapshot = SnapshotId::from_bytes(&stored.snapshot).map_err(|error| chain(&error))?;
        let known = core.db.commit_of_snapshot(snapshot).await.map_err(|error| chain(&error))?;
        if known.is_none() && !awaited.contains(&snapshot) {
            unused.push(snapshot);
        }
    }
    Ok(unused)
}

async fn drop_snapshot(core: &Core, volume: VolumeId, snapshot: SnapshotId) {
    if core.unknown == Unknown::Keep {
        return tracing::warn!(volume.id = %volume, snapshot.id = %snapshot,
            "nothing points at this snapshot at the store; it is kept");
    }
    match core.store.drop_snapshot(volume, snapshot).await {
        Ok(()) => {
            tracing::info!(volume.id = %volume, snapshot.id = %snapshot, "dropped a snapshot that nothing points at");
            metrics::counter!(crate::metrics::SNAPSHOTS_COLLECTED).increment(1);
        }
        Err(error) => {
            tracing::warn!(snapshot.id = %snapshot, error = %chain(&error), "an unused snapshot stays for now");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, UdpSocket},
        process::Command,
        sync::Arc,
    };

    use bytes::Bytes;
    use ds_db::{NewRunner, NewTask, TokenHash};
    use ds_domain::{
        NodeId, RunnerId, TaskId,
        api::{CreateDataset, CreateProject, Project, User},
        task::{Outcome, TaskSpec},
    };
    use ds_link::Role;
    use ds_transfer::{Store, StoreConfig};
    use futures_util::stream;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::{Hub, HubState, StoreTarget};

    /// A pool of 128 MiB in a file.
    struct Pool(String);

    impl Pool {
        fn new(dir: &std::path::Path) -> Self {
            let name = format!("dshub{}", &Uuid::new_v4().simple().to_string()[..12]);
            let file = dir.join("pool");
            std::fs::File::create(&file).unwrap().set_len(128 << 20).unwrap();
            let made = Command::new("zpool").args(["create", "-m", "none", &name]).arg(&file).status();
            assert!(made.unwrap().success(), "zpool create: is ZFS running?");
            Self(name)
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            let _ = Command::new("zpool").args(["destroy", "-f", &self.0]).status();
        }
    }

    async fn import(core: &Core, project: &Project) -> SnapshotId {
        let base = core.db.head(project.workspace).await.unwrap().snapshot;
        let snapshot = SnapshotId(Uuid::new_v4());
        let empty_tar = stream::iter([Ok(Bytes::from_static(&[0; 1024]))]);
        core.store.import_tar(project.workspace, base, snapshot, "", empty_tar).await.unwrap();
        snapshot
    }

    /// A task that a runner has, and whose result this snapshot is.
    async fn assign(core: &Core, author: &User, project: &Project, result: SnapshotId) {
        let runner = NewRunner {
            id: RunnerId(Uuid::new_v4()),
            name: "box".into(),
            token: TokenHash([1; 32]),
            token_expires_ms: 1,
            created_ms: 1,
        };
        core.db.create_runner(&runner).await.unwrap();
        let task = NewTask {
            id: TaskId(Uuid::new_v4()),
            project: project.id,
            author: author.id,
            spec: TaskSpec { command: vec!["true".into()], ..TaskSpec::default() },
            result,
            created_ms: 1,
        };
        core.db.create_task(&task).await.unwrap();
        core.db.assign_task(task.id, runner.id).await.unwrap().unwrap();
    }

    async fn end_and_delete(core: &Core, project: &Project) {
        for row in core.db.assigned_tasks().await.unwrap() {
            core.end_without_result(row.task.id, Outcome::Error, "").await.unwrap();
        }
        core.db.delete_project(project.id).await.unwrap();
    }

    async fn stored(core: &Core, project: &Project) -> HashSet<SnapshotId> {
        let stored = core.store.list_snapshots(project.workspace).await.unwrap();
        stored.iter().map(|stored| SnapshotId::from_bytes(&stored.snapshot).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_no_commit_points_at_goes_in_the_second_round_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path());
        let state = HubState::open(dir.path()).unwrap();
        let identity = state.issue(Role::Store, NodeId(Uuid::new_v4())).unwrap();
        let node = identity.peer().node;
        let listen = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let store = StoreConfig {
            listen,
            root: format!("{}/store", pool.0),
            state_dir: dir.path().join("store"),
            identity,
            ticket_public_key: state.ticket_public_key(),
        };
        let store = Store::build(store).await.unwrap();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let running = tokio::spawn(async move { store.run(stopping).await });

        let hub = Hub::for_test(dir.path(), StoreTarget { node, address: listen }).await;
        let mut core = Arc::new(hub.into_core());
        crate::store_clock::tell_store(&core).await.unwrap();
        let admin: User = core.db.user_by_name("admin").await.unwrap();
        let request = CreateProject { name: "p".into(), description: String::new() };
        let project = core.create_project(&admin, request).await.unwrap();
        let head = core.db.head(project.workspace).await.unwrap().snapshot;
        let orphan = import(&core, &project).await;
        let awaited = import(&core, &project).await;
        assign(&core, &admin, &project, awaited).await;
        let request = CreateDataset { name: "d".into(), description: String::new() };
        let dataset = core.create_dataset(&admin, request).await.unwrap();
        let nobodys = VolumeId(Uuid::new_v4());
        core.store.create_volume(nobodys, SnapshotId(Uuid::new_v4())).await.unwrap();

        let first = round(&core, &Unused::default()).await;
        let found = Unused { snapshots: HashSet::from([orphan]), volumes: HashSet::from([nobodys]) };
        assert_eq!(first, found);
        assert_eq!(stored(&core, &project).await, HashSet::from([head, orphan, awaited]));
        let second = round(&core, &first).await;
        assert_eq!(second, Unused::default());
        assert_eq!(
            stored(&core, &project).await,
            HashSet::from([head, awaited]),
            "a live task's result stays"
        );
        assert_eq!(core.store.list_volumes().await.unwrap(), [project.workspace, dataset.id]);

        // A project that was deleted leaves its volume, if there is no doubt.
        end_and_delete(&core, &project).await;
        core.db.delete_dataset(dataset.id).await.unwrap();
        let first = round(&core, &Unused::default()).await;
        assert_eq!(first.volumes, HashSet::from([project.workspace, dataset.id]));
        Arc::get_mut(&mut core).unwrap().unknown = Unknown::Keep;
        round(&core, &first).await;
        assert_eq!(core.store.list_volumes().await.unwrap(), [project.workspace, dataset.id]);
        Arc::get_mut(&mut core).unwrap().unknown = Unknown::Drop;
        round(&core, &first).await;
        assert_eq!(core.store.list_volumes().await.unwrap(), []);
        stop.cancel();
        running.await.unwrap();
    }
}
