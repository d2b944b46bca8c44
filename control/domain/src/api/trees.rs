//! Trees of datasets that nodes keep in step with each other.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::NodeId;

/// `POST /api/v1/trees/{tree}/tickets` (admins).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateTreeTicket {
    /// The node that will show the ticket: a registered runner's id, or the store's.
    pub peer: NodeId,
    /// Which way.
    pub direction: TreeDirection,
    /// The runner where the tree lies, by name or id. Absent: the hub's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Which way a tree moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TreeDirection {
    /// From the peer to the host, which may also be cleared of old snapshots.
    Push,
    /// From the host to the peer. Nothing changes at the host.
    Pull,
}

/// Permission for one node to bring a tree to another, or to fetch it, until it expires.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TreeTicketGrant {
    /// What the peer shows to the host.
    pub ticket: String,
    /// Where the tree lies.
    pub host: NodeId,
    /// `host:port` of the store, its host empty where it is the hub's own. Absent for a runner, which does not tell
    /// the hub where it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When the ticket stops working.
    pub expires_ms: i64,
}
