//! Projects and who may do what in them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{CommitId, ProjectId, VolumeId};

/// What a member may do in a project or dataset. Each may do what those before it may.
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
    /// Unique among all projects and datasets of the hub; letters, digits, `-`, `_`, `.`; at most 100.
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

/// `PUT /api/v1/projects/{project}/members/{username}`, the same of a dataset, and one row of the members' list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Who.
    #[serde(default)]
    pub username: String,
    /// What they may do.
    pub access: Access,
}
