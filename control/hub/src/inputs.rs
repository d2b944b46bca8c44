//! Which version of a file a run read: the newest commit, at or before the one it worked on, in which the file
//! changed, and the run that wrote it there. Of another project's file: at or before the commit that was named,
//! else that project's head.

use std::collections::{HashMap, hash_map::Entry};

use ds_db::Db;
use ds_domain::{
    CommitId, VolumeId,
    api::{ChangeKind, Dataset, Project, RunFile, User},
    record::FileReference,
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
            if let Some(commit) = version(self.db, self.volume, path, self.from).await? {
                file.commit = Some(commit);
                file.written_by = self.db.run_that_wrote(commit, path).await?;
            }
            self.known.insert(path.to_owned(), file.clone());
        }
        Ok(file)
    }
}

/// Resolves files of other projects, and of datasets, on behalf of a run's author, each once. A head is looked up once,
/// so that all runs of a task or request see the same.
///
/// A file that is not found stays as it was declared, whether the author may not see its project or there is none.
pub(crate) struct ForeignResolver<'a> {
    db: &'a Db,
    author: Option<&'a User>,
    places: HashMap<String, Option<Place>>,
    known: HashMap<FileReference, RunFile>,
}

/// A project's workspace or a dataset.
struct Place {
    name: String,
    volume: VolumeId,
    head: CommitId,
}

impl<'a> ForeignResolver<'a> {
    /// No author stands for one who was removed meanwhile, and sees nothing.
    pub(crate) fn new(db: &'a Db, author: Option<&'a User>) -> Self {
        Self { db, author, places: HashMap::new(), known: HashMap::new() }
    }

    /// Each at the version that was read. A path and a version together, `ds://project/path@commit`, are again a
    /// reference to the same version.
    pub(crate) async fn resolve_all(
        &mut self,
        references: &[FileReference],
    ) -> Result<Vec<RunFile>, ds_db::Error> {
        let mut files = Vec::with_capacity(references.len());
        for reference in references {
            files.push(self.resolve(reference).await?);
        }
        Ok(files)
    }

    async fn resolve(&mut self, reference: &FileReference) -> Result<RunFile, ds_db::Error> {
        if let Some(file) = self.known.get(reference) {
            return Ok(file.clone());
        }
        let declared = RunFile { path: reference.to_string(), commit: None, written_by: None };
        if self.known.len() == MAX_RESOLVED {
            return Ok(declared);
        }
        let file = self.find(reference).await?.unwrap_or(declared);
        self.known.insert(reference.clone(), file.clone());
        Ok(file)
    }

    async fn find(&mut self, reference: &FileReference) -> Result<Option<RunFile>, ds_db::Error> {
        let db = self.db;
        let Some(place) = self.place(&reference.project).await? else { return Ok(None) };
        let from = match &reference.version {
            Some(prefix) => db.commit_of(place.volume, prefix).await?,
            None => Some(place.head),
        };
        let Some(from) = from else { return Ok(None) };
        let path = &reference.path;
        let Some(commit) = version(db, place.volume, path, from).await? else { return Ok(None) };
        let newest = FileReference { project: place.name.clone(), path: path.clone(), version: None };
        let written_by = db.run_that_wrote(commit, path).await?;
        Ok(Some(RunFile { path: newest.to_string(), commit: Some(commit), written_by }))
    }

    async fn place(&mut self, name: &str) -> Result<Option<&Place>, ds_db::Error> {
        let Some(author) = self.author else { return Ok(None) };
        let place = match self.places.entry(name.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(place(self.db, author, name).await?),
        };
        Ok(place.as_ref())
    }
}

async fn place(db: &Db, viewer: &User, name: &str) -> Result<Option<Place>, ds_db::Error> {
    if let Some(project) = found(db.project(viewer, name).await)? {
        let Project { name, workspace: volume, head, .. } = project;
        return Ok(Some(Place { name, volume, head }));
    }
    let dataset = found(db.dataset(viewer, name).await)?;
    Ok(dataset.map(|Dataset { name, id: volume, head, .. }| Place { name, volume, head }))
}

/// What is not there, or not to be seen, as `None`.
pub(crate) fn found<T>(result: Result<T, ds_db::Error>) -> Result<Option<T>, ds_db::Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(ds_db::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The commit that made the version of `path` which `from` has, if it has one.
async fn version(
    db: &Db,
    volume: VolumeId,
    path: &str,
    from: CommitId,
) -> Result<Option<CommitId>, ds_db::Error> {
    let newest = db.newest_change(volume, path, from).await?;
    Ok(newest.filter(|change| change.change != ChangeKind::Removed).map(|change| change.commit))
}
