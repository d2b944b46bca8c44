//! Commits and the files that they changed.

use std::collections::BTreeMap;

use ds_domain::{
    CommitId, ProjectId, SnapshotId, TaskId, VolumeId,
    api::{ChangeKind, Commit, FileChange, Page, User},
};

use sqlx::{Any, Transaction, any::AnyRow};

use crate::{
    Db, Error, NewProject, Result,
    rows::{Columns, NAME_KEY_BYTES, ROWS, Sql, cursor, id_prefix, json, key, read_cursor, signed, storable},
};

/// A commit to be recorded; a store has its snapshot.
#[derive(Debug, Clone)]
pub struct NewCommit {
    /// Id.
    pub id: CommitId,
    /// Volume.
    pub volume: VolumeId,
    /// Its bytes.
    pub snapshot: SnapshotId,
    /// ZFS's GUID of the snapshot.
    pub guid: u64,
    /// The commit it was made on.
    pub parent: CommitId,
    /// One line for people.
    pub message: String,
    /// Who: a user name.
    pub author: String,
    /// The task that made it.
    pub task: Option<TaskId>,
    /// What differs from the parent.
    pub changes: Vec<FileChange>,
    /// When.
    pub created_ms: i64,
}

/// The newest commit of a volume's main line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The commit.
    pub commit: CommitId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// Its snapshot's GUID.
    pub guid: u64,
}

fn no_commit(id: &(impl ToString + ?Sized)) -> Error {
    Error::NotFound { what: "commit", id: id.to_string() }
}

/// A row of `commits`, without its runs.
fn commit(row: &AnyRow) -> Result<Commit> {
    Ok(Commit {
        id: row.parsed("id")?,
        volume: row.parsed("volume_id")?,
        snapshot: row.parsed("snapshot")?,
        guid: row.text("guid")?,
        parent: row.optional_parsed("parent")?,
        message: row.text("message")?,
        author: row.text("author")?,
        task: row.optional_parsed("task_id")?,
        branch: row.optional_text("branch")?,
        metadata: row.json("metadata")?,
        runs: Vec::new(),
        changed_files: row.size("changed_files")?,
        created_ms: row.int("created_ms")?,
    })
}

impl Db {
    /// The newest commit of a volume.
    pub async fn head(&self, volume: VolumeId) -> Result<Head> {
        let sql =
            "SELECT c.id, c.snapshot, c.guid FROM volumes v JOIN commits c ON c.id = v.head WHERE v.id = $1";
        let row = sqlx::query(sql).bind(volume.to_string()).fetch_optional(self.reader()).await?;
        let row = row.ok_or_else(|| Error::NotFound { what: "volume", id: volume.to_string() })?;
        Ok(Head { commit: row.parsed("id")?, snapshot: row.parsed("snapshot")?, guid: row.parsed("guid")? })
    }

    /// Records a commit and makes it the head. A conflict if the head is not its parent any more. Idempotent by id.
    pub async fn import_commit(&self, new: &NewCommit) -> Result<()> {
        let mut tx = self.begin().await?;
        let known = sqlx::query("SELECT id FROM commits WHERE id = $1").bind(new.id.to_string());
        if known.fetch_optional(&mut *tx).await?.is_some() {
            return Ok(());
        }
        if !move_head(&mut tx, new).await? {
            return Err(Error::Conflict(
                "its head has moved meanwhile: try again on the newest commit".into(),
            ));
        }
        insert_commit(&mut tx, new, &BTreeMap::new(), None).await?;
        Ok(tx.commit().await?)
    }

    /// A commit by id.
    pub async fn commit(&self, id: CommitId) -> Result<Commit> {
        let query = sqlx::query("SELECT * FROM commits WHERE id = $1").bind(id.to_string());
        let row = query.fetch_optional(self.reader()).await?.ok_or_else(|| no_commit(&id))?;
        let mut commits = [commit(&row)?];
        self.add_runs(&mut commits).await?;
        let [commit] = commits;
        Ok(commit)
    }

    /// The project whose workspace, or the dataset, a commit belongs to.
    pub async fn project_of_commit(&self, id: CommitId) -> Result<ProjectId> {
        let sql = "SELECT v.project_id FROM commits c JOIN volumes v ON v.id = c.volume_id WHERE c.id = $1";
        let row = sqlx::query(sql).bind(id.to_string()).fetch_optional(self.reader()).await?;
        row.ok_or_else(|| no_commit(&id))?.parsed("project_id")
    }

    /// A volume's commits, branches included, newest first.
    pub async fn commits(&self, volume: VolumeId, limit: u32, after: Option<&str>) -> Result<Page<Commit>> {
        let mut sql = Sql::new("SELECT * FROM commits WHERE volume_id = ");
        sql.bind(volume.to_string());
        if let Some((created_ms, id)) = read_cursor::<(i64, String)>(after)? {
            sql.push(" AND (created_ms, id) < (").bind(created_ms).push(", ").bind(id).push(")");
        }
        sql.push(" ORDER BY created_ms DESC, id DESC LIMIT ").bind(i64::from(limit) + 1);
        let rows = sql.query().fetch_all(self.reader()).await?;
        let mut items = rows.iter().map(commit).collect::<Result<Vec<_>>>()?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        self.add_runs(&mut items).await?;
        let next = items.last().filter(|_| more).map(|last| cursor(&(last.created_ms, last.id)));
        Ok(Page { items, next })
    }

    async fn add_runs(&self, commits: &mut [Commit]) -> Result<()> {
        if commits.is_empty() {
            return Ok(());
        }
        let ids: Vec<CommitId> = commits.iter().map(|commit| commit.id).collect();
        let mut sql = Sql::new("SELECT commit_id, id FROM runs WHERE commit_id IN ");
        sql.bind_list(&ids).push(" ORDER BY no");
        for row in sql.query().fetch_all(self.reader()).await? {
            let of: CommitId = row.parsed("commit_id")?;
            let run = row.parsed("id")?;
            commits.iter_mut().filter(|commit| commit.id == of).for_each(|commit| commit.runs.push(run));
        }
        Ok(())
    }

    /// Whether a commit has this snapshot.
    pub async fn commit_of_snapshot(&self, snapshot: SnapshotId) -> Result<Option<CommitId>> {
        let query = sqlx::query("SELECT id FROM commits WHERE snapshot = $1").bind(snapshot.to_string());
        query.fetch_optional(self.reader()).await?.map(|row| row.parsed("id")).transpose()
    }

    /// What a commit changed, by path.
    pub async fn commit_changes(&self, id: CommitId) -> Result<Vec<FileChange>> {
        let sql =
            "SELECT path, kind, size_bytes FROM commit_files WHERE commit_id = $1 ORDER BY path_key, path";
        let rows = sqlx::query(sql).bind(id.to_string()).fetch_all(self.reader()).await?;
        rows.iter().map(change).collect()
    }

    /// The full id of the commit whose id starts so, among those that `viewer` may see.
    pub async fn find_commit(&self, viewer: &User, prefix: &str) -> Result<CommitId> {
        let from = "SELECT c.id FROM commits c JOIN volumes o ON o.id = c.volume_id WHERE c.id";
        self.find(viewer, "commit", from, prefix).await?.parsed("id")
    }

    /// The one thing whose id starts so. `select` ends in the column of the id; `o.project_id` is whose it is.
    pub(crate) async fn find(
        &self,
        viewer: &User,
        what: &'static str,
        select: &str,
        prefix: &str,
    ) -> Result<AnyRow> {
        let none = || Error::NotFound { what, id: prefix.to_owned() };
        let start = id_prefix(prefix).ok_or_else(none)?;
        let mut sql = Sql::new(select);
        // Every id that starts so lies before the start followed by `g`, which is no hex digit.
        sql.push(" BETWEEN ").bind(start.clone()).push(" AND ").bind(format!("{start}g"));
        if !viewer.admin {
            sql.push(" AND o.project_id IN (SELECT project_id FROM members WHERE user_id = ");
            sql.bind(viewer.id.to_string()).push(")");
        }
        sql.push(" LIMIT 2");
        let mut rows = sql.query().fetch_all(self.reader()).await?;
        if rows.len() > 1 {
            return Err(Error::Ambiguous { what, prefix: prefix.to_owned() });
        }
        rows.pop().ok_or_else(none)
    }
}

/// A row of `commit_files`.
pub(crate) fn change(row: &AnyRow) -> Result<FileChange> {
    let change = row.word("kind", ChangeKind::parse)?;
    Ok(FileChange { path: row.text("path")?, change, size_bytes: row.size("size_bytes")? })
}

/// Moves the head from the commit's parent to the commit; false if the head is another one.
pub(crate) async fn move_head(tx: &mut Transaction<'static, Any>, new: &NewCommit) -> Result<bool> {
    let query =
        sqlx::query("UPDATE volumes SET head = $1 WHERE id = $2 AND head = $3").bind(new.id.to_string());
    let query = query.bind(new.volume.to_string()).bind(new.parent.to_string());
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}

const INSERT_COMMIT: &str = "INSERT INTO commits (id, volume_id, snapshot, guid, parent, depth, message, author, task_id, \
    branch, metadata, changed_files, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// Inserts a commit with its files. Its parent has to be a commit of the same volume.
pub(crate) async fn insert_commit(
    tx: &mut Transaction<'static, Any>,
    new: &NewCommit,
    metadata: &BTreeMap<String, String>,
    branch: Option<&str>,
) -> Result<()> {
    let parent = sqlx::query("SELECT depth FROM commits WHERE id = $1 AND volume_id = $2");
    let parent = parent.bind(new.parent.to_string()).bind(new.volume.to_string());
    let parent = parent.fetch_optional(&mut **tx).await?.ok_or_else(|| no_commit(&new.parent))?;
    let query = sqlx::query(INSERT_COMMIT).bind(new.id.to_string()).bind(new.volume.to_string());
    let query = query.bind(new.snapshot.to_string()).bind(new.guid.to_string()).bind(new.parent.to_string());
    let query = query.bind(parent.int("depth")? + 1).bind(storable(&new.message)).bind(new.author.clone());
    let query = query.bind(new.task.map(|task| task.to_string())).bind(branch.map(str::to_owned));
    let query = query.bind(json(metadata)).bind(signed(new.changes.len() as u64)).bind(new.created_ms);
    query.execute(&mut **tx).await?;
    insert_changes(tx, new).await
}

async fn insert_changes(tx: &mut Transaction<'static, Any>, new: &NewCommit) -> Result<()> {
    let numbered: Vec<(i64, &FileChange)> = (0..).zip(&new.changes).collect();
    for batch in numbered.chunks(ROWS) {
        let mut sql = Sql::new(
            "INSERT INTO commit_files (commit_id, position, volume_id, path_key, path, kind, size_bytes) VALUES",
        );
        for (index, (position, change)) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" })
                .bind(new.id.to_string())
                .push(", ")
                .bind(*position)
                .push(", ");
            sql.bind(new.volume.to_string()).push(", ").bind(key(&change.path, NAME_KEY_BYTES)).push(", ");
            sql.bind(change.path.clone()).push(", ").bind(change.change.as_str().to_owned()).push(", ");
            sql.bind(signed(change.size_bytes)).push(")");
        }
        sql.query().execute(&mut **tx).await?;
    }
    Ok(())
}

/// The first commit of a new project's workspace or of a new dataset, which has no parent.
pub(crate) async fn first_commit(
    tx: &mut Transaction<'static, Any>,
    new: &NewProject,
    message: &str,
) -> Result<()> {
    let sql = "INSERT INTO commits (id, volume_id, snapshot, guid, depth, message, author, metadata, changed_files, created_ms) \
        SELECT $1, $2, $3, $4, 0, $5, username, '{}', 0, $6 FROM users WHERE id = $7";
    let query = sqlx::query(sql).bind(new.commit.to_string()).bind(new.workspace.to_string());
    let query = query.bind(new.snapshot.to_string()).bind(new.guid.to_string()).bind(message.to_owned());
    match query.bind(new.created_ms).bind(new.owner.to_string()).execute(&mut **tx).await?.rows_affected() {
        0 => Err(Error::NotFound { what: "user", id: new.owner.to_string() }),
        _ => Ok(()),
    }
}
