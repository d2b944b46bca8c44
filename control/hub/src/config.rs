//! What a hub needs to be told.

use std::{net::SocketAddr, path::PathBuf};

use ds_domain::NodeId;
use ds_proto::v1::StoreAddress;

/// Settings of a hub.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Where people and programs connect (HTTP). Port 0 picks a free one.
    pub http: SocketAddr,
    /// Where nodes connect (gRPC over TLS). Port 0 picks a free one.
    pub nodes: SocketAddr,
    /// `sqlite:/path/hub.db` or `postgres://...`.
    pub database_url: String,
    /// Keys, certificates and the first admin's password; see [`crate::HubState`].
    pub state_dir: PathBuf,
    /// `host:port` of [`HubConfig::nodes`] as runners reach it; goes into registration tokens. Absent: `nodes`
    /// itself, with `127.0.0.1` for an unspecified address.
    pub advertise: Option<String>,
    /// Where the volumes are.
    pub store: StoreTarget,
    /// The image of a task that names none.
    pub default_image: String,
    /// What becomes of volumes and snapshots at the store that the database does not know.
    pub unknown: Unknown,
}

/// What becomes of volumes and snapshots at the store that the database does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They are leftovers, and dropped after two rounds.
    Drop,
    /// They stay, and the log names them: the database may be older than the store.
    Keep,
}

/// The store of a hub.
#[derive(Debug, Clone)]
pub struct StoreTarget {
    /// The id in its certificate.
    pub node: NodeId,
    /// Where it listens (UDP), as the hub reaches it. A store on this machine (loopback) is reached by runners
    /// under the host at which they reach the hub.
    pub address: SocketAddr,
}

impl StoreTarget {
    /// Where it is, as runners are told.
    pub(crate) fn told(&self) -> StoreAddress {
        StoreAddress { node_id: self.node.to_bytes(), address: self.for_runners() }
    }

    /// `host:port`, the host empty where it is the hub's own.
    fn for_runners(&self) -> String {
        let ip = self.address.ip();
        if ip.is_loopback() || ip.is_unspecified() {
            format!(":{}", self.address.port())
        } else {
            self.address.to_string()
        }
    }
}
