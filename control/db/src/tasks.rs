//! Tasks: from queued to ended. Every change of state is a compare-and-set along `ds_domain::task::State`.

use ds_domain::{
    CommitId, ProjectId, RunnerId, SnapshotId, TaskId, UserId, VolumeId,
    api::{Page, Task, User},
    task::{Outcome, Phase, State, TaskSpec},
};

use sqlx::{Any, Transaction, any::AnyRow};

use crate::{
    Db, Error, Result,
    rows::{Columns, Sql, cursor, json, read_cursor, storable, taken},
};

const TASK: &str = "SELECT t.*, p.name AS project_name, u.username AS author, r.name AS runner_name, \
    c.snapshot AS base_snapshot FROM tasks t JOIN projects p ON p.id = t.project_id JOIN users u ON u.id = t.author_id \
    LEFT JOIN runners r ON r.id = t.runner_id LEFT JOIN commits c ON c.id = t.base_commit";

/// A task to be queued.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Id, chosen by whoever asked.
    pub id: TaskId,
    /// Where.
    pub project: ProjectId,
    /// Who.
    pub author: UserId,
    /// What; the hub has filled in the image.
    pub spec: TaskSpec,
    /// The id that its result's snapshot will have.
    pub result: SnapshotId,
    /// When.
    pub created_ms: i64,
}

/// A task with what only the hub and its nodes need to know.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// As the API shows it; `runner_online` and `progress` are for the hub to fill in.
    pub task: Task,
    /// The project's workspace.
    pub volume: VolumeId,
    /// Who has it, or had it.
    pub runner: Option<RunnerId>,
    /// The commit it works on, from the moment it has a runner.
    pub base: Option<CommitId>,
    /// That commit's snapshot.
    pub base_snapshot: Option<SnapshotId>,
    /// The id of its result's snapshot.
    pub result: SnapshotId,
}

/// What a runner has to know of a task when it says how far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// The task's project.
    pub project: ProjectId,
    /// Whether somebody asked for its end.
    pub cancelling: bool,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was still queued and has ended now.
    Ended,
    /// This runner has to stop it.
    Stopping(RunnerId),
    /// It had ended before.
    Over,
}

/// How a task ended that has no result.
#[derive(Debug, Clone)]
pub struct TaskEnd {
    /// How.
    pub outcome: Outcome,
    /// The command's exit code, if it ran.
    pub exit_code: Option<i32>,
    /// What failed and what to do.
    pub error: String,
    /// For people.
    pub warnings: Vec<String>,
    /// When its container started, if it did.
    pub started_ms: Option<i64>,
    /// When.
    pub ended_ms: i64,
}

/// A row of [`TASK`], without its runs.
fn task(row: &AnyRow) -> Result<TaskRow> {
    let task = Task {
        id: row.parsed("id")?,
        project: row.parsed("project_id")?,
        project_name: row.text("project_name")?,
        author: row.text("author")?,
        spec: row.json("spec")?,
        state: row.word("state", State::parse)?,
        phase: row.optional_word("phase", Phase::parse)?,
        detail: row.text("detail")?,
        progress: None,
        outcome: row.optional_word("outcome", Outcome::parse)?,
        exit_code: row.optional_int("exit_code")?.and_then(|code| code.try_into().ok()),
        error: row.text("error")?,
        warnings: row.json("warnings")?,
        cancelling: row.flag("cancelling")?,
        runner: row.optional_text("runner_name")?,
        runner_online: None,
        commit: row.optional_parsed("result_commit")?,
        branch: row.optional_text("branch")?,
        runs: Vec::new(),
        log_bytes: row.size("log_bytes")?,
        created_ms: row.int("created_ms")?,
        started_ms: row.optional_int("started_ms")?,
        ended_ms: row.optional_int("ended_ms")?,
    };
    Ok(TaskRow {
        task,
        volume: row.parsed("volume_id")?,
        runner: row.optional_parsed("runner_id")?,
        base: row.optional_parsed("base_commit")?,
        base_snapshot: row.optional_parsed("base_snapshot")?,
        result: row.parsed("result_snapshot")?,
    })
}

pub(crate) fn no_task(id: TaskId) -> Error {
    Error::NotFound { what: "task", id: id.to_string() }
}

impl Db {
    /// Queues a task; returns whether it is new. The same id in the same project again changes nothing; in another
    /// project it is a conflict.
    pub async fn create_task(&self, new: &NewTask) -> Result<bool> {
        let mut tx = self.begin().await?;
        let known = sqlx::query("SELECT project_id FROM tasks WHERE id = $1").bind(new.id.to_string());
        if let Some(row) = known.fetch_optional(&mut *tx).await? {
            let same = row.parsed::<ProjectId>("project_id")? == new.project;
            let words = || Error::Conflict(format!("another project has a task {}: choose a new id", new.id));
            return if same { Ok(false) } else { Err(words()) };
        }
        let sql = "INSERT INTO tasks (id, project_id, volume_id, author_id, spec, state, detail, error, warnings, cancelling, \
            result_snapshot, advanced, log_bytes, created_ms) \
            SELECT $1, $2, v.id, $3, $4, 'queued', '', '', '[]', 0, $5, 0, 0, $6 FROM volumes v WHERE v.project_id = $2";
        let query = sqlx::query(sql)
            .bind(new.id.to_string())
            .bind(new.project.to_string())
            .bind(new.author.to_string());
        let query = query.bind(json(&new.spec)).bind(new.result.to_string()).bind(new.created_ms);
        let words = || format!("task {} is being made already: ask for it", new.id);
        if query.execute(&mut *tx).await.map_err(taken(words))?.rows_affected() == 0 {
            return Err(Error::NotFound { what: "project", id: new.project.to_string() });
        }
        tx.commit().await?;
        Ok(true)
    }

    /// A task by id.
    pub async fn task(&self, id: TaskId) -> Result<TaskRow> {
        let mut sql = Sql::new(TASK);
        sql.push(" WHERE t.id = ").bind(id.to_string());
        self.task_rows(sql).await?.pop().ok_or_else(|| no_task(id))
    }

    /// A project's tasks, newest first.
    pub async fn tasks(&self, project: ProjectId, limit: u32, after: Option<&str>) -> Result<Page<Task>> {
        let mut sql = Sql::new(TASK);
        sql.push(" WHERE t.project_id = ").bind(project.to_string());
        if let Some((created_ms, id)) = read_cursor::<(i64, String)>(after)? {
            sql.push(" AND (t.created_ms, t.id) < (").bind(created_ms).push(", ").bind(id).push(")");
        }
        sql.push(" ORDER BY t.created_ms DESC, t.id DESC LIMIT ").bind(i64::from(limit) + 1);
        let mut items: Vec<Task> = self.task_rows(sql).await?.into_iter().map(|row| row.task).collect();
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|last| cursor(&(last.created_ms, last.id)));
        Ok(Page { items, next })
    }

    /// The tasks that wait for a runner, in queue order.
    pub async fn queued_tasks(&self, limit: u32) -> Result<Vec<TaskRow>> {
        let mut sql = Sql::new(TASK);
        sql.push(" WHERE t.state = 'queued' ORDER BY t.created_ms, t.id LIMIT ").bind(i64::from(limit));
        self.task_rows(sql).await
    }

    /// The tasks that a runner has, oldest first.
    pub async fn tasks_of_runner(&self, runner: RunnerId) -> Result<Vec<TaskRow>> {
        let mut sql = Sql::new(TASK);
        sql.push(" WHERE t.state IN ('scheduled', 'running') AND t.runner_id = ").bind(runner.to_string());
        sql.push(" ORDER BY t.created_ms, t.id");
        self.task_rows(sql).await
    }

    /// Every task that is scheduled or running, on whatever runner.
    pub async fn assigned_tasks(&self) -> Result<Vec<TaskRow>> {
        let mut sql = Sql::new(TASK);
        sql.push(" WHERE t.state IN ('scheduled', 'running') ORDER BY t.created_ms, t.id");
        self.task_rows(sql).await
    }

    /// Reads rows of [`TASK`], with the runs of each.
    async fn task_rows(&self, sql: Sql) -> Result<Vec<TaskRow>> {
        let rows = sql.query().fetch_all(self.reader()).await?;
        let mut tasks = rows.iter().map(task).collect::<Result<Vec<_>>>()?;
        let ended: Vec<TaskId> =
            tasks.iter().filter(|row| row.task.state == State::Ended).map(|row| row.task.id).collect();
        if ended.is_empty() {
            return Ok(tasks);
        }
        let mut sql = Sql::new("SELECT task_id, id FROM runs WHERE task_id IN ");
        sql.bind_list(&ended).push(" ORDER BY no");
        for row in sql.query().fetch_all(self.reader()).await? {
            let of: TaskId = row.parsed("task_id")?;
            let run = row.parsed("id")?;
            tasks.iter_mut().filter(|row| row.task.id == of).for_each(|row| row.task.runs.push(run));
        }
        Ok(tasks)
    }

    /// The full id of the task whose id starts so, among those that `viewer` may see.
    pub async fn find_task(&self, viewer: &User, prefix: &str) -> Result<TaskId> {
        self.find(viewer, "task", "SELECT o.id FROM tasks o WHERE o.id", prefix).await?.parsed("id")
    }

    /// Gives a queued task to a runner, on the head as it is now. `None` if it is not queued any more.
    pub async fn assign_task(&self, task: TaskId, runner: RunnerId) -> Result<Option<TaskRow>> {
        let sql = "UPDATE tasks SET state = 'scheduled', runner_id = $2, detail = '', \
            base_commit = (SELECT head FROM volumes v WHERE v.id = tasks.volume_id) WHERE id = $1 AND state = 'queued'";
        let query = sqlx::query(sql).bind(task.to_string()).bind(runner.to_string());
        match query.execute(self.writer()).await?.rows_affected() {
            0 => Ok(None),
            _ => self.task(task).await.map(Some),
        }
    }

    /// Notes why queued tasks wait.
    pub async fn note_waiting(&self, reasons: &[(TaskId, String)]) -> Result<()> {
        let mut tx = self.begin().await?;
        for (task, reason) in reasons {
            let query = sqlx::query(
                "UPDATE tasks SET detail = $2 WHERE id = $1 AND state = 'queued' AND detail <> $2",
            );
            query.bind(task.to_string()).bind(reason.clone()).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The runner that has it says how far it is. `None` if the task is not this runner's (any more).
    pub async fn task_progress(
        &self,
        task: TaskId,
        runner: RunnerId,
        phase: Phase,
        detail: &str,
        at_ms: i64,
    ) -> Result<Option<Noted>> {
        let sql = "UPDATE tasks SET state = 'running', phase = $3, detail = $4, started_ms = COALESCE(started_ms, $5) \
            WHERE id = $1 AND runner_id = $2 AND state IN ('scheduled', 'running') RETURNING project_id, cancelling";
        let query = sqlx::query(sql).bind(task.to_string()).bind(runner.to_string()).bind(phase.as_str());
        let query = query.bind(storable(detail)).bind((phase == Phase::Running).then_some(at_ms));
        // All rows are asked for, though there is one: on SQLite the statement has ended only then.
        let rows = query.fetch_all(self.writer()).await?;
        let noted = rows
            .first()
            .map(|row| Ok(Noted { project: row.parsed("project_id")?, cancelling: row.flag("cancelling")? }));
        noted.transpose()
    }

    /// Replaces the line that says how it is with a task which a runner has.
    pub async fn note_detail(&self, task: TaskId, detail: &str) -> Result<()> {
        let sql = "UPDATE tasks SET detail = $2 WHERE id = $1 AND state IN ('scheduled', 'running')";
        let query = sqlx::query(sql).bind(task.to_string()).bind(storable(detail));
        query.execute(self.writer()).await?;
        Ok(())
    }

    /// Asks for the end of a task.
    pub async fn cancel_task(&self, task: TaskId, now_ms: i64) -> Result<Cancelled> {
        let mut tx = self.begin().await?;
        let sql = "UPDATE tasks SET state = 'ended', outcome = 'cancelled', detail = '', ended_ms = $2 \
            WHERE id = $1 AND state = 'queued'";
        let query = sqlx::query(sql).bind(task.to_string()).bind(now_ms);
        if query.execute(&mut *tx).await?.rows_affected() == 1 {
            tx.commit().await?;
            return Ok(Cancelled::Ended);
        }
        let sql = "UPDATE tasks SET cancelling = 1 WHERE id = $1 AND state IN ('scheduled', 'running')";
        let running = sqlx::query(sql).bind(task.to_string()).execute(&mut *tx).await?.rows_affected() == 1;
        let query = sqlx::query("SELECT runner_id FROM tasks WHERE id = $1").bind(task.to_string());
        let runner = query
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| no_task(task))?
            .optional_parsed("runner_id")?;
        tx.commit().await?;
        Ok(runner.filter(|_| running).map_or(Cancelled::Over, Cancelled::Stopping))
    }

    /// Gives a scheduled task that its runner never took back to the queue. False if it is not this runner's, runs, or is
    /// being cancelled.
    pub async fn requeue_task(&self, task: TaskId, runner: RunnerId) -> Result<bool> {
        let sql = "UPDATE tasks SET state = 'queued', runner_id = NULL, base_commit = NULL, detail = '' \
            WHERE id = $1 AND runner_id = $2 AND state = 'scheduled' AND cancelling = 0";
        let query = sqlx::query(sql).bind(task.to_string()).bind(runner.to_string());
        Ok(query.execute(self.writer()).await?.rows_affected() == 1)
    }

    /// Ends a task that has no snapshot. False if it had ended before.
    pub async fn end_task(&self, task: TaskId, end: &TaskEnd) -> Result<bool> {
        let mut tx = self.begin().await?;
        let new = end_in(&mut tx, task, end).await?;
        if !new {
            let query = sqlx::query("SELECT id FROM tasks WHERE id = $1").bind(task.to_string());
            query.fetch_optional(&mut *tx).await?.ok_or_else(|| no_task(task))?;
        }
        tx.commit().await?;
        Ok(new)
    }
}

/// Ends a task; false if there is none that has not ended.
pub(crate) async fn end_in(tx: &mut Transaction<'static, Any>, task: TaskId, end: &TaskEnd) -> Result<bool> {
    let sql = "UPDATE tasks SET state = 'ended', phase = NULL, detail = '', outcome = $2, exit_code = $3, error = $4, \
        warnings = $5, started_ms = COALESCE(started_ms, $6), ended_ms = $7 WHERE id = $1 AND state <> 'ended'";
    let query =
        sqlx::query(sql).bind(task.to_string()).bind(end.outcome.as_str()).bind(end.exit_code.map(i64::from));
    let query =
        query.bind(storable(&end.error)).bind(json(&end.warnings)).bind(end.started_ms).bind(end.ended_ms);
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}
