//! What all tasks of a runner work with.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ds_domain::{SnapshotId, VolumeId};
use ds_link::{Endpoint, Link};
use ds_zfs::Volumes;
use tokio::sync::OwnedMutexGuard;

use crate::{
    docker::Docker,
    error::{Error, Result, explain},
    hub::Hub,
    journal::{Journal, Journals},
    spec::StoreTarget,
};

/// This machine's Docker, pool and network.
pub(crate) struct Node {
    pub(crate) docker: Docker,
    pub(crate) volumes: Volumes,
    pub(crate) endpoint: Endpoint,
    pub(crate) hub: Arc<Hub>,
    pub(crate) turns: Turns,
    pub(crate) journals: Journals,
}

/// Lets one task at a time fetch snapshots of a volume: the next one mostly wants the same, and then finds it.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<VolumeId, Turn>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

impl Turns {
    /// Waits for the volume's turn, which lasts until the answer is dropped.
    pub(crate) async fn take(&self, volume: VolumeId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().expect("nobody panics while holding it");
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(volume).or_default())
        };
        turn.lock_owned().await
    }
}

impl Node {
    /// Links to a store. Each transfer has a link of its own: a handshake is short beside a transfer.
    pub(crate) async fn store(&self, store: &StoreTarget) -> Result<Link> {
        let address = store_address(&store.address, self.hub.host());
        let failed = |source| Error::Store { address: address.clone(), source };
        let found = resolve(&address).await.map_err(failed)?;
        self.endpoint.connect(found, store.node).await.map_err(failed)
    }
}

/// What the pool keeps beyond what tasks need is only there to spare a transfer, and goes when it is in the way.
impl Node {
    /// Drops the volume's branches that no journal names: the head went another way, or past them. One that something
    /// hangs on stays until that is gone.
    pub(crate) async fn drop_stale_branches(&self, volume: VolumeId) {
        if let Err(error) = self.try_drop_stale_branches(volume).await {
            tracing::warn!(volume.id = %volume, "old branches stay on the pool: {}", explain(&error));
        }
    }

    async fn try_drop_stale_branches(&self, volume: VolumeId) -> Result<()> {
        let branches = self.volumes.snapshots(volume).await?.into_iter().filter(|snapshot| !snapshot.main);
        // After the listing: a branch that is listed and named by none of these is no task's work.
        let named = self.named()?;
        for branch in branches.filter(|branch| !named.snapshots.contains(&branch.id)) {
            match self.volumes.drop_branch(volume, branch.id).await {
                Ok(()) => {
                    tracing::info!(volume.id = %volume, snapshot.id = %branch.id, "dropped an old branch");
                }
                Err(ds_zfs::Error::HasDependents(_) | ds_zfs::Error::OnMainLine { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Makes room on a full pool: drops the volume whose newest snapshot is the oldest, of those that no task works with.
    /// False if there is none.
    pub(crate) async fn make_room(&self) -> bool {
        self.try_make_room().await.unwrap_or_else(|error| {
            tracing::warn!("cannot make room on the pool: {}", explain(&error));
            false
        })
    }

    async fn try_make_room(&self) -> Result<bool> {
        let volumes = self.volumes.volumes().await?;
        let named = self.named()?;
        for volume in volumes.into_iter().filter(|volume| !named.volumes.contains(volume)) {
            match self.volumes.drop_volume(volume).await {
                Ok(()) => {
                    tracing::info!(volume.id = %volume, "dropped a volume that no task works with: the pool is full");
                    return Ok(true);
                }
                // A clone that could not be dropped hangs on it until the runner's next start.
                Err(ds_zfs::Error::HasDependents(_) | ds_zfs::Error::Busy(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// What the journals of this runner name.
    fn named(&self) -> Result<Named> {
        let journals = self.journals.load()?;
        let specs = || journals.iter().map(Journal::spec);
        Ok(Named {
            volumes: specs().map(|spec| spec.volume).collect(),
            snapshots: specs().flat_map(|spec| [spec.base, spec.result]).collect(),
        })
    }
}

struct Named {
    volumes: HashSet<VolumeId>,
    snapshots: HashSet<SnapshotId>,
}

/// Whether this runner's pool is full, and not the store's.
pub(crate) fn is_full_here(error: &Error) -> bool {
    use ds_zfs::Error::NoSpace;
    matches!(error, Error::Volumes(NoSpace(_)) | Error::Transfer(ds_transfer::Error::Volumes(NoSpace(_))))
}

async fn resolve(address: &str) -> ds_link::Result<SocketAddr> {
    let unreachable = |reason: String| ds_link::Error::Unreachable { who: address.to_owned(), reason };
    let mut found = tokio::net::lookup_host(address).await.map_err(|e| unreachable(e.to_string()))?;
    found.next().ok_or_else(|| unreachable("its name has no address".into()))
}

/// A store that does not say where it is, is where the hub is.
fn store_address(address: &str, hub_host: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "7602"));
    match host {
        "" | "0.0.0.0" | "[::]" | "::" => format!("{hub_host}:{port}"),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_a_host_is_at_the_hub() {
        for address in ["0.0.0.0:7602", "[::]:7602", ":7602"] {
            assert_eq!(store_address(address, "hub.example"), "hub.example:7602");
        }
        assert_eq!(store_address("0.0.0.0:1", "[::1]"), "[::1]:1");
        assert_eq!(store_address("store:9", "hub"), "store:9");
    }
}
