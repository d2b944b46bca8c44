//! Drops at the store what no commit points at: results of tasks that ended otherwise, uploads that came too
//! late.
//!
//! A snapshot goes only if two rounds in a row found it unused: what is under way (an upload between its
//! snapshot and its commit, at this hub or another) is recorded long before the second.

use std::{collections::HashSet, time::Duration};

use ds_domain::{SnapshotId, VolumeId};

use crate::{clock::now_ms, core::Core, error::chain, store_clock::store_answers};

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
    let mut unused = HashSet::new();
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

/// One round over all volumes: drops what `before` found unused too, and returns what is unused now.
async fn round(core: &Core, before: &HashSet<SnapshotId>) -> HashSet<SnapshotId> {
    let mut unused = HashSet::new();
    let projects = match core.db.project_rows().await {
        Ok(projects) => projects,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "cannot look for unused snapshots");
            return unused;
        }
    };
    for project in projects {
        match unused_of(core, project.workspace).await {
            Ok(found) => {
                for snapshot in found {
                    if before.contains(&snapshot) {
                        drop_snapshot(core, project.workspace, snapshot).await;
                    } else {
                        unused.insert(snapshot);
                    }
                }
            }
            Err(why) => {
                tracing::warn!(volume.id = %project.workspace, why, "cannot look for unused snapshots");
            }
        }
    }
    unused
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
        net::{Ipv4Addr, SocketAddr, UdpSocket},
        process::Command,
        sync::Arc,
    };

    use bytes::Bytes;
    use ds_domain::{
        NodeId,
        api::{CreateProject, Project, User},
    };
    use ds_link::Role;
    use ds_transfer::{Store, StoreConfig};
    use futures_util::stream;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::{Hub, HubConfig, HubState, StoreTarget};

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

    fn config(dir: &std::path::Path, store: StoreTarget) -> HubConfig {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        HubConfig {
            http: any_port,
            nodes: any_port,
            database_url: format!("sqlite:{}", dir.join("hub.db").display()),
            state_dir: dir.to_owned(),
            advertise: None,
            store,
            default_image: String::new(),
        }
    }

    async fn import(core: &Core, project: &Project) -> SnapshotId {
        let base = core.db.head(project.workspace).await.unwrap().snapshot;
        let snapshot = SnapshotId(Uuid::new_v4());
        let empty_tar = stream::iter([Ok(Bytes::from_static(&[0; 1024]))]);
        core.store.import_tar(project.workspace, base, snapshot, "", empty_tar).await.unwrap();
        snapshot
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

        let hub = Hub::build(config(dir.path(), StoreTarget { node, address: listen })).await.unwrap();
        let core = Arc::clone(hub.core());
        crate::store_clock::tell_time(&core).await.unwrap();
        let admin: User = core.db.user_by_name("admin").await.unwrap();
        let request = CreateProject { name: "p".into(), description: String::new() };
        let project = core.create_project(&admin, request).await.unwrap();
        let head = core.db.head(project.workspace).await.unwrap().snapshot;
        let orphan = import(&core, &project).await;

        let first = round(&core, &HashSet::new()).await;
        assert_eq!(first, HashSet::from([orphan]));
        assert_eq!(stored(&core, &project).await, HashSet::from([head, orphan]));
        let second = round(&core, &first).await;
        assert!(second.is_empty());
        assert_eq!(stored(&core, &project).await, HashSet::from([head]));
        stop.cancel();
        running.await.unwrap();
    }
}
