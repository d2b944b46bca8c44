//! What all tasks of a runner work with.

use std::{net::SocketAddr, sync::Arc};

use ds_blockio::BlockIo;
use ds_link::{Endpoint, Link};
use ds_zfs::Volumes;

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
