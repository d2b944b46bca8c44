//! Datasets: files under version control that belong to no one project.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Access;
use crate::{CommitId, VolumeId};

/// `POST /api/v1/datasets`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateDataset {
    /// Unique among all datasets and projects of the hub; letters, digits, `-`, `_`, `.`; at most 100.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// `POST /api/v1/datasets/{dataset}/clone`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CloneDataset {
    /// The new dataset's name.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The commit to begin with: its id, or at least its first 4 characters. Absent: the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// A dataset.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Id: its volume's.
    pub id: VolumeId,
    /// Unique name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its newest commit.
    pub head: CommitId,
    /// The commit of another dataset that it was cloned from. The two share their blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<CommitId>,
    /// What the asking user may do.
    pub access: Access,
    /// When it was created.
    pub created_ms: i64,
}
