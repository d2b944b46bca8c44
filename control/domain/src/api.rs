//! What the HTTP API takes and gives, shared by the hub that serves it and the programs that call it.
//!
//! Times are Unix milliseconds by the hub's clock, unless a field says otherwise. Lists are pages: `items` and, where there
//! is more, `next`, to be passed as `?cursor=`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    CommitId, ProjectId, RunId, RunnerId, SnapshotId, TaskId, UserId, VolumeId,
    task::{Outcome, Phase, State, TaskSpec},
};

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable word for programs: `not_found`, `forbidden`, `conflict`, ...
    pub code: String,
    /// For people: what failed, why, and what to do.
    pub message: String,
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// This page's items.
    pub items: Vec<T>,
    /// Where the next page starts; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

// People ----------------------------------------------------------------------------------------

/// `POST /api/v1/login`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginRequest {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// A session, or a new API key: the only time its token is seen.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Goes into `Authorization: Bearer <token>`.
    pub token: String,
    /// When it stops working; absent for API keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// Whose it is.
    pub user: User,
}

/// A person with a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Unique; lower-case letters, digits, `-`, `_`, `.`.
    pub username: String,
    /// May do everything, such as creating users.
    pub admin: bool,
    /// When it was created.
    pub created_ms: i64,
}

/// `POST /api/v1/users` (admins).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateUser {
    /// Unique; lower-case letters, digits, `-`, `_`, `.`.
    pub username: String,
    /// At least 8 characters. Absent: the hub makes one and returns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// May do everything.
    #[serde(default)]
    pub admin: bool,
}

/// Answer to [`CreateUser`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedUser {
    /// The new user.
    pub user: User,
    /// Present if the hub made it; not shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `POST /api/v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateKey {
    /// What it is for.
    pub name: String,
}

/// An API key, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Id.
    pub id: uuid::Uuid,
    /// What it is for.
    pub name: String,
    /// When it was created.
    pub created_ms: i64,
    /// When it was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<i64>,
}

// Projects --------------------------------------------------------------------------------------

/// What a member may do in a project. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Reads.
    Viewer,
    /// Runs tasks, uploads, records.
    Editor,
    /// Manages members, deletes.
    Owner,
}

impl Access {
    /// The name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Owner => "owner",
        }
    }

    /// Reads [`Access::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Owner].into_iter().find(|a| a.as_str() == text)
    }
}

/// `POST /api/v1/projects`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateProject {
    /// Unique among all projects of the hub; letters, digits, `-`, `_`, `.`; at most 100.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// A project.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Id.
    pub id: ProjectId,
    /// Unique name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its workspace.
    pub workspace: VolumeId,
    /// The workspace's newest commit.
    pub head: CommitId,
    /// What the asking user may do.
    pub access: Access,
    /// Recorded runs.
    pub runs: u64,
    /// When it was created.
    pub created_ms: i64,
}

/// `PUT /api/v1/projects/{project}/members/{username}`, and one row of the members' list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Who.
    #[serde(default)]
    pub username: String,
    /// What they may do.
    pub access: Access,
}

// Tasks -----------------------------------------------------------------------------------------

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
    /// One line for people: why it waits, or how far the phase is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
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

// Commits and files -----------------------------------------------------------------------------

/// A commit.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Commit {
    /// Id.
    pub id: CommitId,
    /// Volume.
    pub volume: VolumeId,
    /// Its bytes.
    pub snapshot: SnapshotId,
    /// ZFS's own GUID of the snapshot, as a decimal string.
    pub guid: String,
    /// The commit it was made on; absent for a volume's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CommitId>,
    /// One line for people.
    pub message: String,
    /// Who.
    pub author: String,
    /// The task that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Where it stays if it is not on the main line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// String to string, in the format `dotscience.run.v1`.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The runs that point at it.
    #[serde(default)]
    pub runs: Vec<RunId>,
    /// Files that differ from the parent.
    pub changed_files: u64,
    /// When it was recorded.
    pub created_ms: i64,
}

/// What happened to a file between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// New.
    Added,
    /// Other content or type.
    Modified,
    /// Gone.
    Removed,
}

impl ChangeKind {
    /// The name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Removed => "removed",
        }
    }

    /// Reads [`ChangeKind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Added, Self::Modified, Self::Removed].into_iter().find(|c| c.as_str() == text)
    }
}

/// A file that a commit changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// Relative to the volume's root.
    pub path: String,
    /// What happened.
    pub change: ChangeKind,
    /// Its size after; 0 if removed.
    pub size_bytes: u64,
}

/// What a name in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// One name in a folder, at some commit.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    /// Relative to the volume's root.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size_bytes: u64,
    /// When it was last written, by the clock of the machine that wrote it.
    pub modified_ms: i64,
}

/// Answer to an upload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Uploaded {
    /// The commit that holds the upload, now the head.
    pub commit: Commit,
}

// Runs ------------------------------------------------------------------------------------------

/// A run: what was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Id.
    pub id: RunId,
    /// Project.
    pub project: ProjectId,
    /// The commit it points at.
    pub commit: CommitId,
    /// The task that recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Who recorded it: `workload`, `derived`, `correction` or `remote`.
    pub authority: String,
    /// Who ran it.
    pub author: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The script or notebook, relative to the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_file: Option<String>,
    /// What the workload said went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether its task succeeded and it has no error.
    pub success: bool,
    /// As the workload wrote it: `%Y%m%dT%H%M%S.%f`, UTC by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Settings.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Metrics (`summary` in the format).
    #[serde(default)]
    pub metrics: BTreeMap<String, String>,
    /// Labels; a model is `artefact:<name>`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Declared inputs, each at the version that was read.
    #[serde(default)]
    pub inputs: Vec<RunFile>,
    /// Declared outputs.
    #[serde(default)]
    pub outputs: Vec<RunFile>,
    /// Where what was declared and what happened differ; for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Where its commit stays if it is not on the main line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// When it was recorded.
    pub created_ms: i64,
}

/// A file that a run read or wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunFile {
    /// Relative to the workspace.
    pub path: String,
    /// The commit in which this version of it was made; absent where no commit has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// The run that wrote that version, if one declared it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<RunId>,
}

/// `POST /api/v1/projects/{project}/runs`: runs of a program that is no task. They point at the workspace's head.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecordRuns {
    /// At most 1,000. Each has an id chosen by the caller: recording twice records once.
    pub runs: Vec<NewRun>,
}

/// A run to record.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewRun {
    /// Id; a UUID.
    pub id: Option<RunId>,
    /// For people.
    pub description: String,
    /// The script or notebook.
    pub workload_file: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// `%Y%m%dT%H%M%S.%f`, UTC.
    pub start: Option<String>,
    /// Likewise.
    pub end: Option<String>,
    /// Settings.
    pub parameters: BTreeMap<String, String>,
    /// Metrics.
    pub metrics: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths read.
    pub inputs: Vec<String>,
    /// Paths written.
    pub outputs: Vec<String>,
}

/// Several runs side by side.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// The runs, in the order asked for.
    pub runs: Vec<Run>,
    /// Every parameter, metric and label that some of them have; those that differ first.
    pub rows: Vec<ComparisonRow>,
    /// Files that differ between the first run's commit and the last's, as far as recorded.
    pub changed_files: Vec<FileChange>,
}

/// One line of a [`Comparison`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ComparisonRow {
    /// `parameter`, `metric` or `label`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// A value for each run; absent where it has none.
    pub values: Vec<Option<String>>,
    /// Whether they differ.
    pub differs: bool,
}

/// Where a run's inputs come from, transitively.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Provenance {
    /// The run that was asked about.
    pub run: RunId,
    /// All runs, files and the commits between them; the asked run first.
    pub nodes: Vec<ProvenanceNode>,
    /// From what was read or written to who did.
    pub edges: Vec<ProvenanceEdge>,
    /// Where what was declared and what happened differ; for people.
    pub conflicts: Vec<String>,
    /// Whether there was more than the limit of 10,000 nodes.
    pub truncated: bool,
}

/// A run or a version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProvenanceNode {
    /// A run.
    Run {
        /// Its id.
        id: RunId,
        /// Its project's name.
        project: String,
        /// Its commit.
        commit: CommitId,
        /// Its description, or its command.
        title: String,
    },
    /// A file as some commit made it.
    File {
        /// Volume.
        volume: VolumeId,
        /// Path in it.
        path: String,
        /// The commit in which it changed; absent where no commit has it.
        commit: Option<CommitId>,
    },
}

/// An arrow between two nodes, by their positions in [`Provenance::nodes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvenanceEdge {
    /// The later one.
    pub from: usize,
    /// What it came from.
    pub to: usize,
    /// `read` (run to file) or `written_by` (file to run).
    pub relation: String,
}

// Runners ---------------------------------------------------------------------------------------

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

// The hub ---------------------------------------------------------------------------------------

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
