//! Runners and their machines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RunnerId;

/// `POST /api/v1/runners` (admins).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateRunner {
    /// Unique; letters, digits, `-`, `_`, `.`.
    pub name: String,
}

/// Answer to [`CreateRunner`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedRunner {
    /// The runner, not registered yet.
    pub runner: Runner,
    /// One-time registration token; carries the hub's node address and its CA's fingerprint. Not shown again.
    pub token: String,
    /// When the token stops working.
    pub expires_ms: i64,
}

/// A runner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Runner {
    /// Id.
    pub id: RunnerId,
    /// Unique name.
    pub name: String,
    /// Whether it has an identity.
    pub registered: bool,
    /// Whether it is connected now.
    pub online: bool,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Tasks that it executes at once.
    pub slots: u32,
    /// Tasks that it holds now.
    pub busy: u32,
    /// Its program's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What the machine is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// When it was created.
    pub created_ms: i64,
    /// When it was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_ms: Option<i64>,
}

/// What a runner's machine is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// `linux/x86_64`.
    pub platform: String,
    /// Distribution and version.
    pub os_version: String,
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// GPUs by name.
    pub gpus: Vec<String>,
    /// Which ZFS.
    pub zfs: String,
    /// Which Docker.
    pub docker: String,
}
