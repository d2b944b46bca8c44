//! The end of a task that has a result: commit, runs, head and task in one transaction.

use std::collections::BTreeMap;

use ds_domain::{CommitId, RunId, SnapshotId, TaskId, VolumeId, api::Run};

use sqlx::{Any, Transaction, any::AnyRow};

use crate::{
    Db, Error, NewCommit, Result, TaskEnd,
    commits::{insert_commit, move_head},
    rows::{Columns, json},
    run_write::{insert_runs, known_runs},
    tasks::{end_in, no_task},
};

/// What a task left, to be recorded at once or not at all.
#[derive(Debug, Clone)]
pub struct FinishTask {
    /// Which.
    pub task: TaskId,
    /// How it ended.
    pub end: TaskEnd,
    /// Its commit and runs; absent if there is no snapshot.
    pub committed: Option<Committed>,
}

/// A commit and the runs that point at it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its parent is the task's base. A receipt for its snapshot was verified.
    pub commit: NewCommit,
    /// In the order in which they were published; inputs resolved. A run id that is recorded already keeps its first
    /// record; `branch` and `commit` are filled in here.
    pub runs: Vec<Run>,
    /// Recorded if none of `runs` is new, so that every commit of a task has a run of its own.
    pub otherwise: Run,
}

/// How a task's end is recorded; the same answer however often it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The volume.
    pub volume: VolumeId,
    /// The id that its snapshot has, if there is one.
    pub snapshot: SnapshotId,
    /// Its commit.
    pub commit: Option<CommitId>,
    /// Set if the head had moved meanwhile.
    pub branch: Option<String>,
    /// Whether the head moved to its commit when it ended.
    pub advanced: bool,
    /// The runs that this call recorded.
    pub runs: Vec<Run>,
    /// Whether this call recorded it; false if it had ended before.
    pub new: bool,
}

impl Db {
    /// Records the end of a task. Idempotent by task id. A conflict if the commit is not the one that the task was to make.
    /// `describe` makes the commit's metadata of the runs that are recorded with it, which is known only here.
    pub async fn finish_task(
        &self,
        finish: &FinishTask,
        describe: impl Fn(&[Run]) -> BTreeMap<String, String> + Send + Sync,
    ) -> Result<Finished> {
        let mut tx = self.begin().await?;
        // First the compare-and-set, which on PostgreSQL also makes a second call wait for this one.
        let new = end_in(&mut tx, finish.task, &finish.end).await?;
        let mut runs = Vec::new();
        if new && let Some(committed) = &finish.committed {
            runs = record(&mut tx, finish, committed, describe).await?;
        }
        let query = sqlx::query("SELECT * FROM tasks WHERE id = $1").bind(finish.task.to_string());
        let row = query.fetch_optional(&mut *tx).await?.ok_or_else(|| no_task(finish.task))?;
        let finished = finished(&row, new, runs)?;
        tx.commit().await?;
        Ok(finished)
    }
}

async fn record(
    tx: &mut Transaction<'static, Any>,
    finish: &FinishTask,
    committed: &Committed,
    describe: impl Fn(&[Run]) -> BTreeMap<String, String>,
) -> Result<Vec<Run>> {
    let commit = &committed.commit;
    check(tx, finish.task, commit).await?;
    let ids: Vec<RunId> = committed.runs.iter().map(|run| run.id).collect();
    let known = known_runs(tx, &ids).await?;
    let of_commit = |run: &Run| Run { commit: commit.id, ..run.clone() };
    let mut runs: Vec<Run> =
        committed.runs.iter().filter(|run| !known.contains_key(&run.id)).map(of_commit).collect();
    if runs.is_empty() {
        runs.push(of_commit(&committed.otherwise));
    }
    let advanced = move_head(tx, commit).await?;
    let branch = (!advanced).then(|| format!("task-{}", &finish.task.to_string()[..8]));
    insert_commit(tx, commit, &describe(&runs), branch.as_deref()).await?;
    insert_runs(tx, &runs).await?;
    let mut warnings = finish.end.warnings.clone();
    let before = committed.runs.iter().filter(|run| known.contains_key(&run.id));
    warnings.extend(before.map(|run| format!("run {} was recorded before: the first record counts", run.id)));
    let sql = "UPDATE tasks SET result_commit = $2, advanced = $3, branch = $4, warnings = $5 WHERE id = $1";
    let query = sqlx::query(sql).bind(finish.task.to_string()).bind(commit.id.to_string());
    query.bind(i64::from(advanced)).bind(branch).bind(json(&warnings)).execute(&mut **tx).await?;
    Ok(runs)
}

/// The hub chose volume, base and snapshot when it started the task; a result of another one is not this task's.
async fn check(tx: &mut Transaction<'static, Any>, task: TaskId, commit: &NewCommit) -> Result<()> {
    let sql = "SELECT volume_id, base_commit, result_snapshot FROM tasks WHERE id = $1";
    let row = sqlx::query(sql).bind(task.to_string()).fetch_one(&mut **tx).await?;
    let told =
        (row.parsed("volume_id")?, row.optional_parsed("base_commit")?, row.parsed("result_snapshot")?);
    if told != (commit.volume, Some(commit.parent), commit.snapshot) {
        return Err(Error::Conflict(format!("the result is not the one that task {task} was started for")));
    }
    Ok(())
}

fn finished(row: &AnyRow, new: bool, runs: Vec<Run>) -> Result<Finished> {
    Ok(Finished {
        volume: row.parsed("volume_id")?,
        snapshot: row.parsed("result_snapshot")?,
        commit: row.optional_parsed("result_commit")?,
        branch: row.optional_text("branch")?,
        advanced: row.flag("advanced")?,
        runs,
        new,
    })
}
