//! Projects, their members, and the volume that is their workspace.

use ds_domain::{
    CommitId, ProjectId, SnapshotId, UserId, VolumeId,
    api::{Access, Member, Project, User},
};

use sqlx::{Any, Transaction, any::AnyRow};

use crate::{
    Db, Error, Result,
    commits::first_commit,
    rows::{Columns, taken},
};

const PROJECT: &str = "SELECT p.*, v.id AS workspace, v.head, m.access FROM projects p \
    JOIN volumes v ON v.project_id = p.id LEFT JOIN members m ON m.project_id = p.id AND m.user_id = $1 \
    WHERE p.kind = 'project'";

const PROJECT_ROW: &str = "SELECT p.id, p.name, v.id AS workspace, v.head, c.snapshot FROM projects p \
    JOIN volumes v ON v.project_id = p.id JOIN commits c ON c.id = v.head";

/// A project to be made, together with its workspace and that volume's first, empty commit.
#[derive(Debug, Clone)]
pub struct NewProject {
    /// Id.
    pub id: ProjectId,
    /// Unique name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its first member.
    pub owner: UserId,
    /// Its workspace; the store has made it already.
    pub workspace: VolumeId,
    /// The first commit.
    pub commit: CommitId,
    /// The first commit's snapshot.
    pub snapshot: SnapshotId,
    /// That snapshot's ZFS GUID.
    pub guid: u64,
    /// When.
    pub created_ms: i64,
}

/// A project or a dataset as it is, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRow {
    /// Id.
    pub id: ProjectId,
    /// Unique name.
    pub name: String,
    /// Its workspace, or the dataset's volume.
    pub workspace: VolumeId,
    /// The volume's newest commit.
    pub head: CommitId,
    /// That commit's snapshot.
    pub head_snapshot: SnapshotId,
}

/// A row of [`PROJECT`], if `viewer` may see it.
fn project(row: &AnyRow, viewer: &User) -> Result<Option<Project>> {
    let Some(access) = access(row.optional_word("access", Access::parse)?, viewer) else { return Ok(None) };
    Ok(Some(Project {
        id: row.parsed("id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        workspace: row.parsed("workspace")?,
        head: row.parsed("head")?,
        access,
        runs: row.size("runs")?,
        created_ms: row.int("created_ms")?,
    }))
}

/// Admins own everything.
pub(crate) fn access(member: Option<Access>, viewer: &User) -> Option<Access> {
    if viewer.admin { Some(Access::Owner) } else { member }
}

fn project_row(row: &AnyRow) -> Result<ProjectRow> {
    Ok(ProjectRow {
        id: row.parsed("id")?,
        name: row.text("name")?,
        workspace: row.parsed("workspace")?,
        head: row.parsed("head")?,
        head_snapshot: row.parsed("snapshot")?,
    })
}

impl Db {
    /// Makes a project with workspace, first commit and owner. Idempotent by id; a taken name is a conflict.
    pub async fn create_project(&self, new: &NewProject) -> Result<()> {
        let mut tx = self.begin().await?;
        let known = sqlx::query("SELECT id FROM projects WHERE id = $1").bind(new.id.to_string());
        if known.fetch_optional(&mut *tx).await?.is_some() {
            return Ok(());
        }
        insert(&mut tx, new, "project", "project created").await?;
        Ok(tx.commit().await?)
    }

    /// A project by id, hyphenated or not, or by name, if `viewer` may see it.
    pub async fn project(&self, viewer: &User, id_or_name: &str) -> Result<Project> {
        let id = id_or_name.parse::<ProjectId>().map_or_else(|_| id_or_name.to_owned(), |id| id.to_string());
        // A name may look like another project's id: the id wins.
        let sql = format!(
            "{PROJECT} AND (p.id = $2 OR p.name = $3) ORDER BY CASE WHEN p.id = $2 THEN 0 ELSE 1 END LIMIT 1"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(viewer.id.to_string())
            .bind(id)
            .bind(id_or_name.to_owned());
        let row = query.fetch_optional(self.reader()).await?;
        let found = row.map(|row| project(&row, viewer)).transpose()?.flatten();
        found.ok_or_else(|| Error::NotFound { what: "project", id: id_or_name.to_owned() })
    }

    /// The projects that `viewer` may see, by name.
    pub async fn projects(&self, viewer: &User) -> Result<Vec<Project>> {
        let query = sqlx::query(sqlx::AssertSqlSafe(format!("{PROJECT} ORDER BY p.name")))
            .bind(viewer.id.to_string());
        let rows = query.fetch_all(self.reader()).await?;
        rows.iter().filter_map(|row| project(row, viewer).transpose()).collect()
    }

    /// A project or dataset by id.
    pub async fn project_row(&self, id: ProjectId) -> Result<ProjectRow> {
        let query =
            sqlx::query(sqlx::AssertSqlSafe(format!("{PROJECT_ROW} WHERE p.id = $1"))).bind(id.to_string());
        let row = query.fetch_optional(self.reader()).await?;
        project_row(&row.ok_or_else(|| Error::NotFound { what: "project", id: id.to_string() })?)
    }

    /// All projects and datasets, for reconciliation with the stores.
    pub async fn project_rows(&self) -> Result<Vec<ProjectRow>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{PROJECT_ROW} ORDER BY p.id")))
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(project_row).collect()
    }

    /// What a user may do in a project or dataset: an admin everything, who is no member nothing.
    pub async fn access(&self, viewer: &User, project: ProjectId) -> Result<Option<Access>> {
        let query = sqlx::query("SELECT access FROM members WHERE project_id = $1 AND user_id = $2");
        let query = query.bind(project.to_string()).bind(viewer.id.to_string());
        let row = query.fetch_optional(self.reader()).await?;
        Ok(access(row.map(|row| row.word("access", Access::parse)).transpose()?, viewer))
    }

    /// The members, by name.
    pub async fn members(&self, project: ProjectId) -> Result<Vec<Member>> {
        let sql = "SELECT u.username, m.access FROM members m JOIN users u ON u.id = m.user_id WHERE m.project_id = $1 \
            ORDER BY u.username";
        let rows = sqlx::query(sql).bind(project.to_string()).fetch_all(self.reader()).await?;
        let member = |row: &AnyRow| {
            Ok(Member { username: row.text("username")?, access: row.word("access", Access::parse)? })
        };
        rows.iter().map(member).collect()
    }

    /// Adds a member or changes what they may do. Taking the last owner's rights is a conflict.
    pub async fn set_member(&self, project: ProjectId, user: UserId, access: Access) -> Result<()> {
        let mut tx = self.begin().await?;
        lock(&mut tx, project).await?;
        put_member(&mut tx, project, user, access).await?;
        has_owner(&mut tx, project).await?;
        Ok(tx.commit().await?)
    }

    /// Removes a member; the last owner stays.
    pub async fn remove_member(&self, project: ProjectId, user: UserId) -> Result<()> {
        let mut tx = self.begin().await?;
        lock(&mut tx, project).await?;
        let query = sqlx::query("DELETE FROM members WHERE project_id = $1 AND user_id = $2");
        let removed = query.bind(project.to_string()).bind(user.to_string()).execute(&mut *tx).await?;
        if removed.rows_affected() == 0 {
            return Err(Error::NotFound { what: "member", id: user.to_string() });
        }
        has_owner(&mut tx, project).await?;
        Ok(tx.commit().await?)
    }

    /// Deletes a project with its tasks, logs, runs, commits and members; its name is free again. The volume is no project's
    /// any more. Tasks that are not over are a conflict.
    pub async fn delete_project(&self, project: ProjectId) -> Result<()> {
        let mut tx = self.begin().await?;
        lock(&mut tx, project).await?;
        has_no_open_task(&mut tx, project).await?;
        // Tasks point at commits, so they go first; the rest goes with the project.
        for sql in ["DELETE FROM tasks WHERE project_id = $1", "DELETE FROM projects WHERE id = $1"] {
            sqlx::query(sql).bind(project.to_string()).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// Inserts a project or dataset with its volume, first commit and owner.
pub(crate) async fn insert(
    tx: &mut Transaction<'static, Any>,
    new: &NewProject,
    kind: &'static str,
    message: &str,
) -> Result<()> {
    let sql =
        "INSERT INTO projects (id, name, description, created_ms, runs, kind) VALUES ($1, $2, $3, $4, 0, $5)";
    let query = sqlx::query(sql).bind(new.id.to_string()).bind(new.name.clone());
    let query = query.bind(new.description.clone()).bind(new.created_ms).bind(kind);
    let words = || format!("there is a project or dataset {:?} already: choose another name", new.name);
    query.execute(&mut **tx).await.map_err(taken(words))?;
    let sql = "INSERT INTO volumes (id, project_id, head) VALUES ($1, $2, $3)";
    let query = sqlx::query(sql).bind(new.workspace.to_string()).bind(new.id.to_string());
    query.bind(new.commit.to_string()).execute(&mut **tx).await?;
    first_commit(tx, new, message).await?;
    put_member(tx, new.id, new.owner, Access::Owner).await
}

/// Open tasks that a refusal names.
const NAMED: usize = 5;

async fn has_no_open_task(tx: &mut Transaction<'static, Any>, project: ProjectId) -> Result<()> {
    let sql =
        "SELECT id, state FROM tasks WHERE project_id = $1 AND state <> 'ended' ORDER BY created_ms, id";
    let open = sqlx::query(sql).bind(project.to_string()).fetch_all(&mut **tx).await?;
    if open.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    for row in open.iter().take(NAMED) {
        let (id, state) = (row.text("id")?, row.text("state")?);
        names.push(format!("{} ({state})", id.get(..8).unwrap_or(&id)));
    }
    let more = if open.len() > NAMED { format!(" and {} more", open.len() - NAMED) } else { String::new() };
    Err(Error::Conflict(format!(
        "tasks of this project are not over: {}{more}. Cancel them, or wait for their end",
        names.join(", ")
    )))
}

/// Makes changes of a project's members wait for each other: two owners who remove each other must not both succeed.
pub(crate) async fn lock(tx: &mut Transaction<'static, Any>, project: ProjectId) -> Result<()> {
    let query = sqlx::query("UPDATE projects SET name = name WHERE id = $1").bind(project.to_string());
    match query.execute(&mut **tx).await?.rows_affected() {
        0 => Err(Error::NotFound { what: "project", id: project.to_string() }),
        _ => Ok(()),
    }
}

/// Makes a user a member, or changes what they may do.
pub(crate) async fn put_member(
    tx: &mut Transaction<'static, Any>,
    project: ProjectId,
    user: UserId,
    access: Access,
) -> Result<()> {
    let sql = "INSERT INTO members (project_id, user_id, access) VALUES ($1, $2, $3) \
        ON CONFLICT (project_id, user_id) DO UPDATE SET access = excluded.access";
    let query = sqlx::query(sql).bind(project.to_string()).bind(user.to_string()).bind(access.as_str());
    query.execute(&mut **tx).await?;
    Ok(())
}

async fn has_owner(tx: &mut Transaction<'static, Any>, project: ProjectId) -> Result<()> {
    let query = sqlx::query("SELECT user_id FROM members WHERE project_id = $1 AND access = $2 LIMIT 1");
    let query = query.bind(project.to_string()).bind(Access::Owner.as_str());
    match query.fetch_optional(&mut **tx).await? {
        Some(_) => Ok(()),
        None => Err(Error::Conflict("this is the last owner: make somebody else an owner first".into())),
    }
}
