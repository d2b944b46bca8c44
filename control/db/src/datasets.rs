//! Datasets: kept like projects, without tasks and runs.

use ds_domain::{
    CommitId, ProjectId, SnapshotId, UserId, VolumeId,
    api::{Access, Dataset, User},
};
use sqlx::{Any, Transaction, any::AnyRow};

use crate::{
    Db, Error, NewProject, Result,
    projects::{access, insert, lock},
    rows::Columns,
};

const DATASET: &str = "SELECT p.*, v.head, m.access FROM projects p \
    JOIN volumes v ON v.project_id = p.id LEFT JOIN members m ON m.project_id = p.id AND m.user_id = $1 \
    WHERE p.kind = 'dataset'";

/// A dataset to be made, together with its first commit.
#[derive(Debug, Clone)]
pub struct NewDataset {
    /// Its volume; the store has made it already.
    pub volume: VolumeId,
    /// Unique name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its first member.
    pub owner: UserId,
    /// The first commit.
    pub commit: CommitId,
    /// The first commit's snapshot.
    pub snapshot: SnapshotId,
    /// That snapshot's ZFS GUID.
    pub guid: u64,
    /// The commit of another dataset that the volume was cloned from.
    pub cloned_from: Option<CommitId>,
    /// When.
    pub created_ms: i64,
}

/// The id under which a dataset has members and events.
pub fn dataset_place(dataset: VolumeId) -> ProjectId {
    ProjectId(dataset.0)
}

/// A row of [`DATASET`], if `viewer` may see it.
fn dataset(row: &AnyRow, viewer: &User) -> Result<Option<Dataset>> {
    let Some(access) = access(row.optional_word("access", Access::parse)?, viewer) else { return Ok(None) };
    Ok(Some(Dataset {
        id: row.parsed("id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        head: row.parsed("head")?,
        cloned_from: row.optional_parsed("cloned_from")?,
        access,
        created_ms: row.int("created_ms")?,
    }))
}

impl Db {
    /// Makes a dataset with its first commit and owner. Idempotent by volume; a taken name is a conflict.
    pub async fn create_dataset(&self, new: &NewDataset) -> Result<()> {
        let mut tx = self.begin().await?;
        let known = sqlx::query("SELECT id FROM projects WHERE id = $1").bind(new.volume.to_string());
        if known.fetch_optional(&mut *tx).await?.is_some() {
            return Ok(());
        }
        let place = NewProject {
            id: dataset_place(new.volume),
            name: new.name.clone(),
            description: new.description.clone(),
            owner: new.owner,
            workspace: new.volume,
            commit: new.commit,
            snapshot: new.snapshot,
            guid: new.guid,
            created_ms: new.created_ms,
        };
        match new.cloned_from {
            Some(origin) => {
                let message = clone_message(&mut tx, origin).await?;
                insert(&mut tx, &place, "dataset", &message).await?;
                let query = sqlx::query("UPDATE projects SET cloned_from = $2 WHERE id = $1");
                let query = query.bind(new.volume.to_string()).bind(origin.to_string());
                query.execute(&mut *tx).await?;
            }
            None => insert(&mut tx, &place, "dataset", "dataset created").await?,
        }
        Ok(tx.commit().await?)
    }

    /// A dataset by id, hyphenated or not, or by name, if `viewer` may see it.
    pub async fn dataset(&self, viewer: &User, id_or_name: &str) -> Result<Dataset> {
        let id = id_or_name.parse::<VolumeId>().map_or_else(|_| id_or_name.to_owned(), |id| id.to_string());
        // Names do not look like ids, so that at most one fits.
        let query = sqlx::query(sqlx::AssertSqlSafe(format!("{DATASET} AND (p.id = $2 OR p.name = $3)")));
        let query = query.bind(viewer.id.to_string()).bind(id).bind(id_or_name.to_owned());
        let row = query.fetch_optional(self.reader()).await?;
        let found = row.map(|row| dataset(&row, viewer)).transpose()?.flatten();
        found.ok_or_else(|| Error::NotFound { what: "dataset", id: id_or_name.to_owned() })
    }

    /// The datasets that `viewer` may see, by name.
    pub async fn datasets(&self, viewer: &User) -> Result<Vec<Dataset>> {
        let query = sqlx::query(sqlx::AssertSqlSafe(format!("{DATASET} ORDER BY p.name")))
            .bind(viewer.id.to_string());
        let rows = query.fetch_all(self.reader()).await?;
        rows.iter().filter_map(|row| dataset(row, viewer).transpose()).collect()
    }

    /// Deletes a dataset with its commits and members; its name is free again, and the volume belongs to nothing any more. A
    /// dataset that was cloned from it, whose blocks lie in it, is a conflict.
    pub async fn delete_dataset(&self, dataset: VolumeId) -> Result<()> {
        let mut tx = self.begin().await?;
        lock(&mut tx, dataset_place(dataset)).await?;
        let sql = "SELECT p.name FROM commits c JOIN projects p ON p.cloned_from = c.id WHERE c.volume_id = $1 \
            ORDER BY p.name";
        let clones = sqlx::query(sql).bind(dataset.to_string()).fetch_all(&mut *tx).await?;
        if !clones.is_empty() {
            let names = clones.iter().map(|row| row.text("name")).collect::<Result<Vec<_>>>()?;
            return Err(Error::Conflict(format!(
                "datasets were cloned from this one and share its blocks: {}. Remove them first",
                names.join(", ")
            )));
        }
        let query = sqlx::query("DELETE FROM projects WHERE id = $1 AND kind = 'dataset'");
        match query.bind(dataset.to_string()).execute(&mut *tx).await?.rows_affected() {
            0 => Err(Error::NotFound { what: "dataset", id: dataset.to_string() }),
            _ => Ok(tx.commit().await?),
        }
    }
}

/// Says of a clone's first commit where it comes from.
async fn clone_message(tx: &mut Transaction<'static, Any>, origin: CommitId) -> Result<String> {
    let sql = "SELECT p.name FROM commits c JOIN projects p ON p.id = c.volume_id WHERE c.id = $1";
    let row = sqlx::query(sql).bind(origin.to_string()).fetch_optional(&mut **tx).await?;
    let row = row.ok_or_else(|| Error::NotFound { what: "commit", id: origin.to_string() })?;
    Ok(format!("cloned from {}@{}", row.text("name")?, &origin.to_string()[..8]))
}
