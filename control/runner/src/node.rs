//! What all tasks of a runner work with.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ds_blockio::BlockIo;
use ds_domain::VolumeId;
use ds_link::{Endpoint, Link};
use ds_zfs::Volumes;
use tokio::sync::OwnedMutexGuard;

use crate::{
    docker::Docker,
    error::{Error, Result},
    hub::Hub,
    spec::StoreTarget,
};

/// This machine's Docker, pool and network.
pub(crate) struct Node {
    pub(crate) docker: Docker,
    pub(crate) volumes: Volumes,
    pub(crate) io: BlockIo,
    pub(crate) endpoint: Endpoint,
    pub(crate) hub: Arc<Hub>,
    pub(crate) turns: Turns,
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
