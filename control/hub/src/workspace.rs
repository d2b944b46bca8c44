//! Volumes of people: made together with their project or dataset, and filled from a person's machine.

use std::{io, sync::Arc};

use bytes::Bytes;
use ds_db::{NewCommit, NewProject};
use ds_domain::{
    CommitId, ProjectId, SnapshotId, VolumeId,
    api::{ChangeKind, Commit, CreateProject, Event, FileChange, Project, User},
    record::relative_path,
};
use futures_util::Stream;
use uuid::Uuid;

use crate::{
    clock::now_ms,
    core::Core,
    error::chain,
    http::{Problem, check_name},
};

/// Characters of a commit's message.
const MESSAGE_CHARS: usize = 1000;

impl Core {
    /// Makes a project. Goes on if whoever asked hangs up, so that no volume is left that belongs to none.
    pub(crate) async fn create_project(
        self: &Arc<Self>,
        user: &User,
        request: CreateProject,
    ) -> Result<Project, Problem> {
        let (core, user) = (Arc::clone(self), user.clone());
        let made = self.tasks.spawn(async move { core.make_project(&user, request).await });
        made.await.expect("making a project does not panic, and is not aborted")
    }

    /// First the volume at the store, then everything else in one transaction.
    async fn make_project(&self, user: &User, request: CreateProject) -> Result<Project, Problem> {
        check_new_name("project", &request.name)?;
        let (workspace, snapshot) = (VolumeId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
        let guid = self.store_for_request().await?.create_volume(workspace, snapshot).await?;
        let new = NewProject {
            id: ProjectId(Uuid::new_v4()),
            name: request.name,
            description: request.description,
            owner: user.id,
            workspace,
            commit: CommitId(Uuid::new_v4()),
            snapshot,
            guid: guid.0,
            created_ms: now_ms(),
        };
        if let Err(error) = self.db.create_project(&new).await {
            return Err(self.creation_failed(workspace, error).await);
        }
        tracing::info!(project.id = %new.id, volume.id = %workspace, user.id = %user.id, "made a project");
        Ok(self.db.project(user, &new.id.to_string()).await?)
    }

    /// What is said of a project or dataset that was not recorded. Its volume goes at once where it is certain that it is not
    /// there after all.
    pub(crate) async fn creation_failed(&self, volume: VolumeId, error: ds_db::Error) -> Problem {
        if matches!(error, ds_db::Error::Conflict(_))
            && let Err(leak) = self.store.drop_volume(volume).await
        {
            tracing::warn!(volume.id = %volume, error = %chain(&leak), "an unused volume stays");
        }
        error.into()
    }

    /// Unpacks a tar over the head of a volume and makes that the head; `place` is its project or dataset. A conflict if the head
    /// moved meanwhile.
    pub(crate) async fn upload(
        &self,
        user: &User,
        (place, volume): (ProjectId, VolumeId),
        path: &str,
        message: &str,
        tar: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Commit, Problem> {
        let path = folder(path)?;
        let head = self.db.head(volume).await?;
        let snapshot = SnapshotId(Uuid::new_v4());
        let imported =
            self.store_for_request().await?.import_tar(volume, head.snapshot, snapshot, &path, tar).await?;
        let new = NewCommit {
            id: CommitId(Uuid::new_v4()),
            volume,
            snapshot,
            guid: imported.guid.0,
            parent: head.commit,
            message: message_or(message, imported.files.len()),
            author: user.username.clone(),
            task: None,
            changes: changes(imported.files),
            created_ms: now_ms(),
        };
        if let Err(error) = self.db.import_commit(&new).await {
            return Err(self.upload_failed(volume, snapshot, error).await);
        }
        tracing::info!(project.id = %place, volume.id = %volume, commit.id = %new.id, user.id = %user.id, "recorded an upload");
        self.advances.add(volume, snapshot);
        self.events.publish(Event::Commit { project: place, id: new.id });
        Ok(self.db.commit(new.id).await?)
    }

    /// What is said of an upload that was not recorded. Its snapshot goes at once where it is certain that no
    /// commit has it; else that is found out when unused ones are collected.
    async fn upload_failed(&self, volume: VolumeId, snapshot: SnapshotId, error: ds_db::Error) -> Problem {
        if !matches!(error, ds_db::Error::Conflict(_)) {
            return error.into();
        }
        if let Err(leak) = self.store.drop_snapshot(volume, snapshot).await {
            tracing::warn!(snapshot.id = %snapshot, error = %chain(&leak), "an unused snapshot stays for now");
        }
        Problem::conflict(
            "the head moved while the upload was under way: send it again to put it on the new head",
        )
    }
}

/// Refuses names that cannot be addressed, or that would be taken for an id.
pub(crate) fn check_new_name(what: &str, name: &str) -> Result<(), Problem> {
    check_name(what, name)?;
    if Uuid::parse_str(name).is_ok() {
        return Err(Problem::invalid(format!("a {what}'s name must not look like an id: choose another")));
    }
    Ok(())
}

fn folder(path: &str) -> Result<String, Problem> {
    if path.split('/').all(|part| matches!(part, "" | ".")) && !path.starts_with('/') {
        return Ok(String::new());
    }
    relative_path(path).map_err(|why| Problem::invalid(format!("cannot unpack into {path:?}: {why}")))
}

fn message_or(message: &str, files: usize) -> String {
    let message: String = message.trim().chars().take(MESSAGE_CHARS).collect();
    if !message.is_empty() {
        return message;
    }
    format!("upload of {files} file{}", if files == 1 { "" } else { "s" })
}

fn changes(files: Vec<ds_proto::v1::ImportedFile>) -> Vec<FileChange> {
    let change = |file: ds_proto::v1::ImportedFile| FileChange {
        path: file.path,
        change: if file.added { ChangeKind::Added } else { ChangeKind::Modified },
        size_bytes: file.size_bytes,
    };
    files.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_relative_and_the_root_is_empty() {
        for root in ["", ".", "./"] {
            assert_eq!(folder(root).unwrap(), "");
        }
        assert_eq!(folder("./data/raw/").unwrap(), "data/raw");
        for bad in ["/", "/etc", "../x", "a/../../b"] {
            assert!(folder(bad).is_err(), "{bad:?}");
        }
    }
}
