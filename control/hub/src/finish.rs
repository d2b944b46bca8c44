//! The end of a task: what its runner brings is checked, then recorded at once or not at all.
//!
//! A commit is made only for a snapshot that the store signed for (the receipt), and runs only together with
//! their commit. Everything can be done twice: the same end gets the same answer.

mod metadata;
mod recorded;

use std::sync::Arc;

use ds_db::{Committed, FinishTask, Finished, NewCommit, Noted, TaskEnd, TaskRow};
use ds_domain::{
    CommitId, RunnerId, SnapshotId, TaskId, VolumeId,
    api::{Event, Run},
    task::{Outcome, Phase, State},
};
use ds_proto::v1::{FinishAck, LogAck, TaskFinished, to_runner};
use ds_transfer::receipt;
use tonic::Status;
use uuid::Uuid;

use crate::{
    clock::now_ms,
    core::Core,
    error::chain,
    nodes::{self, forget},
    tasks::count_end,
};

/// Characters of a commit's message.
const MESSAGE_CHARS: usize = 200;
/// Characters of an error or a warning.
const TEXT_CHARS: usize = 4000;
/// Lines of warnings kept with a task.
const MAX_WARNINGS: usize = 200;

/// Records a task's end and answers its runner. A result that cannot be taken is not answered: the runner keeps
/// it and offers it again, and its other tasks go on.
pub(crate) async fn finish(
    core: &Core,
    runner: RunnerId,
    task: TaskId,
    finished: TaskFinished,
) -> Result<Option<to_runner::Message>, Status> {
    let row = match core.db.task(task).await {
        Ok(row) if row.runner == Some(runner) => row,
        Ok(_) | Err(ds_db::Error::NotFound { .. }) => return Ok(Some(forget(task))),
        Err(error) => return Err(nodes::database(&error)),
    };
    if row.task.state == State::Ended {
        // The hub that recorded it may have died before it told the store.
        if has_advanced(&row) {
            core.advances.add(row.volume, row.result);
        }
        return Ok(Some(ack(task, has_advanced(&row))));
    }
    if row.task.log_bytes < finished.log_bytes {
        // The runner goes back to where the stored bytes end.
        let stored = LogAck { task_id: task.to_bytes(), offset: row.task.log_bytes };
        return Ok(Some(to_runner::Message::LogAck(stored)));
    }
    match record(core, runner, &row, finished).await {
        Ok(advanced) => Ok(Some(ack(task, advanced))),
        Err(Refused::Result(why)) => refuse(core, runner, task, &why).await.map(|()| None),
        Err(Refused::Now(error)) => Err(nodes::database(&error)),
    }
}

/// Why a result is not recorded.
enum Refused {
    /// It cannot be believed, or contradicts what is stored.
    Result(String),
    /// The database failed; it may go well the next time.
    Now(ds_db::Error),
}

impl From<ds_db::Error> for Refused {
    fn from(error: ds_db::Error) -> Self {
        match error {
            ds_db::Error::Conflict(why) => Self::Result(why),
            error => Self::Now(error),
        }
    }
}

/// Checks and records a result. Returns whether the head moved to it.
async fn record(
    core: &Core,
    runner: RunnerId,
    row: &TaskRow,
    mut finished: TaskFinished,
) -> Result<bool, Refused> {
    let guid = snapshot_guid(core, row, &finished).map_err(Refused::Result)?;
    let finish = prepare(core, row, &mut finished, guid).await?;
    let machine = core.db.runner_ever(runner).await?.runner;
    let execution = metadata::Execution {
        task: &row.task,
        message: &message(row),
        success: finish.end.outcome == Outcome::Succeeded,
        finished: &finished,
        runner: &machine,
    };
    let done = core.db.finish_task(&finish, |runs| metadata::metadata(&execution, runs)).await?;
    if done.new {
        tell(core, runner, row, &finish, &done);
    }
    Ok(done.advanced)
}

/// What to say to a runner that still holds a task which has ended: its result is recorded, or there is none to
/// keep.
pub(crate) fn answer_to_ended(row: &TaskRow) -> to_runner::Message {
    if row.task.state == State::Ended && row.task.commit.is_some() {
        return ack(row.task.id, has_advanced(row));
    }
    forget(row.task.id)
}

/// Whether the head moved to the task's commit when it ended.
fn has_advanced(row: &TaskRow) -> bool {
    row.task.commit.is_some() && row.task.branch.is_none()
}

fn ack(task: TaskId, advanced: bool) -> to_runner::Message {
    to_runner::Message::FinishAck(FinishAck { task_id: task.to_bytes(), advanced })
}

/// The GUID of the result's snapshot as this hub's store signed for it; none if there is no snapshot.
fn snapshot_guid(core: &Core, row: &TaskRow, finished: &TaskFinished) -> Result<Option<u64>, String> {
    let Some(signed) = &finished.receipt else { return Ok(None) };
    let (store, receipt) = receipt::verify(core.ca.certificate_pem(), signed)
        .map_err(|error| format!("its receipt cannot be believed: {}", chain(&error)))?;
    if store != core.store_target.node {
        return Err(format!("its receipt was signed by {store}, which is not this hub's store"));
    }
    let names = |volume: VolumeId, snapshot: SnapshotId| {
        receipt.volume == volume.to_bytes() && receipt.snapshot == snapshot.to_bytes()
    };
    if !names(row.volume, row.result) {
        return Err("its receipt is for another snapshot than the task's".into());
    }
    Ok(Some(receipt.guid))
}

/// The task stays as it is, with a line that says why; its runner keeps what it has.
async fn refuse(core: &Core, runner: RunnerId, task: TaskId, why: &str) -> Result<(), Status> {
    tracing::error!(runner.id = %runner, task.id = %task, why, "refused a task's result");
    let detail = format!("the hub refused its result: {why}");
    let noted = core.db.task_progress(task, runner, Phase::Committing, &detail, now_ms()).await;
    if let Some(Noted { project, .. }) = noted.map_err(|error| nodes::database(&error))? {
        core.events.publish(Event::Task { id: task, project });
    }
    Ok(())
}

/// Everything that is to be recorded.
async fn prepare(
    core: &Core,
    row: &TaskRow,
    finished: &mut TaskFinished,
    guid: Option<u64>,
) -> Result<FinishTask, ds_db::Error> {
    let mut warnings = std::mem::take(&mut finished.warnings);
    let committed = match (guid, row.base) {
        (Some(guid), Some(base)) => Some(commit(core, row, (base, guid), finished, &mut warnings).await?),
        _ => None,
    };
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - MAX_WARNINGS;
        warnings.truncate(MAX_WARNINGS);
        warnings.push(format!("and {more} more warnings"));
    }
    for warning in &mut warnings {
        *warning = nodes::text(warning, TEXT_CHARS);
    }
    let end = TaskEnd {
        outcome: nodes::outcome(finished.outcome),
        exit_code: finished.exit_code,
        error: nodes::text(&finished.error, TEXT_CHARS),
        warnings,
        started_ms: (finished.started_ms > 0).then_some(finished.started_ms),
        ended_ms: now_ms(),
    };
    Ok(FinishTask { task: row.task.id, end, committed })
}

/// The commit of a task that has a snapshot, and its runs.
async fn commit(
    core: &Core,
    row: &TaskRow,
    (base, guid): (CommitId, u64),
    finished: &mut TaskFinished,
    warnings: &mut Vec<String>,
) -> Result<Committed, ds_db::Error> {
    let (id, outcome) = (CommitId(Uuid::new_v4()), nodes::outcome(finished.outcome));
    let changes = Arc::new(nodes::changes(std::mem::take(&mut finished.changes)));
    if finished.changes_omitted > 0 {
        warnings.push(format!("{} more files changed than a commit lists", finished.changes_omitted));
    }
    let result = recorded::TaskResult { row, commit: id, base, outcome, changes };
    let runs = recorded::runs(core, &result, std::mem::take(&mut finished.records), warnings).await?;
    let otherwise = recorded::derived(&result, finished);
    let commit = NewCommit {
        id,
        volume: row.volume,
        snapshot: row.result,
        guid,
        parent: base,
        message: message(row),
        author: row.task.author.clone(),
        task: Some(row.task.id),
        changes: Arc::unwrap_or_clone(result.changes),
        created_ms: now_ms(),
    };
    Ok(Committed { commit, runs, otherwise })
}

fn message(row: &TaskRow) -> String {
    row.task.spec.command.join(" ").chars().take(MESSAGE_CHARS).collect()
}

/// What follows from a task's end: the store moves its main line, people see it, the slot is free.
fn tell(core: &Core, runner: RunnerId, row: &TaskRow, finish: &FinishTask, done: &Finished) {
    let (id, project) = (row.task.id, row.task.project);
    tracing::info!(task.id = %id, outcome = %finish.end.outcome, advanced = done.advanced, "a task ended");
    count_end(finish.end.outcome);
    for run in &done.runs {
        count_run(run);
    }
    if done.advanced {
        core.advances.add(done.volume, done.snapshot);
        core.sessions.holds(runner, done.snapshot);
    }
    core.events.publish(Event::Task { id, project });
    if let Some(id) = done.commit {
        core.events.publish(Event::Commit { project, id });
        core.events.publish(Event::Runs { project });
    }
    core.events.wake_scheduler();
}

fn count_run(run: &Run) {
    let authority = if run.authority == "derived" { "derived" } else { "workload" };
    metrics::counter!(crate::metrics::RUNS_RECORDED, "authority" => authority).increment(1);
}
