//! The hub itself, and what it tells as it happens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Progress;
use crate::{CommitId, ProjectId, RunnerId, TaskId};

/// `GET /api/v1/hub`; needs no login.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HubInfo {
    /// The hub's program version.
    pub version: String,
    /// `host:port` where nodes connect (gRPC).
    pub node_address: String,
    /// The CA's certificate, to be compared with the fingerprint in a registration token.
    pub ca_pem: String,
    /// The image of a task that names none.
    pub default_image: String,
}

/// One server-sent event of `GET /api/v1/events`. `event:` is the kind; this is `data:`. It says what changed, not how:
/// fetch the object again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A task's state, phase or detail.
    Task {
        /// Which.
        id: TaskId,
        /// Whose.
        project: ProjectId,
    },
    /// Bytes moved for a task. Nothing else of it changed: there is nothing to fetch.
    Progress {
        /// Which task.
        id: TaskId,
        /// Whose.
        project: ProjectId,
        /// How far it is.
        progress: Progress,
    },
    /// New log bytes of a task.
    Log {
        /// Which task.
        id: TaskId,
        /// Whose.
        project: ProjectId,
        /// Bytes stored now.
        bytes: u64,
    },
    /// Runs were recorded.
    Runs {
        /// Where.
        project: ProjectId,
    },
    /// A commit was recorded.
    Commit {
        /// Where.
        project: ProjectId,
        /// Which.
        id: CommitId,
    },
    /// A runner came, went or changed.
    Runner {
        /// Which.
        id: RunnerId,
    },
}
