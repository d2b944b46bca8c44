//! Runs, their comparison and their provenance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{CommitId, ProjectId, RunId, TaskId, VolumeId, api::FileChange};

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
    /// Declared outputs. Those of a derived run are the files that changed; one without a commit was removed.
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
    /// Relative to the workspace; of an input that is another project's file, `ds://<project>/<path>`. Whoever may see
    /// the run sees what it declared, though they may not see that project.
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
    /// Paths read. `ds://<project>/<path>` or `ds://<project>/<path>@<commit>` is a file of another project: the newest
    /// version on its main line, or as that commit had it. In such a path `%XX` stands for a byte; `%` is written `%25`,
    /// and `@` `%40`.
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
        /// Its project's name; empty where the reader may not see that project.
        project: String,
        /// Its commit.
        commit: CommitId,
        /// Its description, or its command; empty where the reader may not see its project.
        title: String,
    },
    /// A file as some commit made it.
    File {
        /// The name of the project whose workspace it is in. Of a project that the reader may not see, as the run that
        /// read the file has it.
        #[serde(default)]
        project: String,
        /// Volume.
        volume: VolumeId,
        /// Path in it; of another project's file that was not found, `ds://...` as it was declared.
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
