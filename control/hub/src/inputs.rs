//! Which version of a file a run read: the newest commit, at or before the one it worked on, in which the file
//! changed, and the run that wrote it there.

use std::collections::HashMap;

use ds_db::Db;
use ds_domain::{
    CommitId, VolumeId,
    api::{ChangeKind, RunFile},
};

/// Files resolved for one task or request; those beyond have no version. Each is a walk through the history.
const MAX_RESOLVED: usize = 10_000;

/// Resolves paths against one commit, each once.
pub(crate) struct Resolver<'a> {
    db: &'a Db,
    volume: VolumeId,
    from: CommitId,
    known: HashMap<String, RunFile>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(db: &'a Db, volume: VolumeId, from: CommitId) -> Self {
        Self { db, volume, from, known: HashMap::new() }
    }

    pub(crate) async fn resolve(&mut self, path: &str) -> Result<RunFile, ds_db::Error> {
        if let Some(file) = self.known.get(path) {
            return Ok(file.clone());
        }
        let mut file = RunFile { path: path.to_owned(), commit: None, written_by: None };
        if self.known.len() < MAX_RESOLVED {
            if let Some(commit) = self.version(path).await? {
                file.commit = Some(commit);
                file.written_by = self.db.run_that_wrote(commit, path).await?;
            }
            self.known.insert(path.to_owned(), file.clone());
        }
        Ok(file)
    }

    async fn version(&self, path: &str) -> Result<Option<CommitId>, ds_db::Error> {
        let newest = self.db.newest_change(self.volume, path, self.from).await?;
        Ok(newest.filter(|change| change.change != ChangeKind::Removed).map(|change| change.commit))
    }
}
