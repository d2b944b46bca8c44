//! Questions along the line of a commit's ancestors.

use ds_domain::{
    CommitId, RunId, VolumeId,
    api::{ChangeKind, FileChange},
    provenance::RunFacts,
};

use crate::{Db, Result};

/// Where a path last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathChange {
    /// The commit.
    pub commit: CommitId,
    /// What happened there; `Removed` means that the path does not exist since.
    pub change: ChangeKind,
}

impl Db {
    /// The newest commit at or before `from`, along its parents, in which `path` changed. `None` if none did.
    pub async fn newest_change(&self, volume: VolumeId, path: &str, from: CommitId) -> Result<Option<PathChange>> { todo!() }
    /// The run that wrote the version of `path` made in `commit`: the one that declared it as an output, else the commit's
    /// only run.
    pub async fn run_that_wrote(&self, commit: CommitId, path: &str) -> Result<Option<RunId>> { todo!() }
    /// Files that differ between two commits, as far as their common history records: by path, as seen from `from` to `to`.
    pub async fn changes_between(&self, from: CommitId, to: CommitId) -> Result<Vec<FileChange>> { todo!() }
    /// What the provenance walk needs to know of these runs; runs that do not exist are left out.
    pub async fn run_facts(&self, runs: &[RunId]) -> Result<Vec<RunFacts>> { todo!() }
}
