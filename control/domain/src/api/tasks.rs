//! Tasks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    CommitId, ProjectId, RunId, TaskId,
    task::{Outcome, Phase, State, TaskSpec},
};

/// `POST /api/v1/projects/{project}/tasks`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateTask {
    /// Chosen by the caller, so that asking twice makes one task. Absent: the hub chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// What to execute.
    pub spec: TaskSpec,
}

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Id.
    pub id: TaskId,
    /// Project.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: String,
    /// Who asked for it.
    pub author: String,
    /// What it executes.
    pub spec: TaskSpec,
    /// Where it is.
    pub state: State,
    /// What the runner does for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// One line for people: why it waits, or what the phase is at.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How far it is with what `detail` says, while bytes move for it: the workspace, the image, or the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The command's exit code, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What failed and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Malformed records and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether somebody asked to cancel it.
    #[serde(default)]
    pub cancelling: bool,
    /// Who executes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// Whether that runner is connected now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_online: Option<bool>,
    /// The commit it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// Set if the head had moved meanwhile: the branch on which its commit stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The runs it recorded.
    #[serde(default)]
    pub runs: Vec<RunId>,
    /// Bytes of log stored.
    pub log_bytes: u64,
    /// When it was created.
    pub created_ms: i64,
    /// When its container started (hub's receipt of it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<i64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
}

/// Bytes that move for a task. Kept in the memory of the hub that its runner is connected to, and told a few times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Bytes that have arrived.
    pub done_bytes: u64,
    /// Bytes in all: an estimate, a few per cent off, that may still grow. Absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}
