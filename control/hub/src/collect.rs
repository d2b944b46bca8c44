//! Drops at the store what no commit points at: results of tasks that ended otherwise, uploads that came too late.
//!
//! A snapshot goes only if two rounds in a row found it unused: what is under way (an upload between its snapshot and its
//! commit, at this hub or another) is recorded long before the second.

use std::{collections::HashSet, time::Duration};

use ds_domain::{SnapshotId, VolumeId};

use crate::{clock::now_ms, core::Core, error::chain};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(600);

/// Collects until the hub stops.
pub(crate) async fn run(core: &Core) {
    let mut unused = HashSet::new();
    loop {
        unused = round(core, &unused).await;
        match core.db.delete_expired_sessions(now_ms()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot sessions that are over"),
            Err(error) => tracing::warn!(error = %chain(&error), "sessions that are over stay for now"),
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
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
        if core.shutdown.is_cancelled() {
            break;
        }
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
            Err(why) => tracing::warn!(volume.id = %project.workspace, why, "cannot look for unused snapshots"),
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
