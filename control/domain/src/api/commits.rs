//! Commits, and files at a commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{CommitId, RunId, SnapshotId, TaskId, VolumeId};

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
