//! What a runner should do: its own account against the database's.

use std::collections::HashSet;

use ds_db::TaskRow;
use ds_domain::{
    RunnerId, TaskId,
    task::{Outcome, State},
};
use ds_proto::v1::{LogAck, TaskReport, to_runner};
use tonic::Status;

use super::{convert, database, session::forget};
use crate::{clock::now_ms, core::Core, finish, scheduler, tasks::stop_task};

/// The messages that bring a runner that connects and the database together. Saying them twice does no harm.
pub(super) async fn reconcile(
    core: &Core,
    runner: RunnerId,
    reports: Vec<TaskReport>,
) -> Result<Vec<to_runner::Message>, Status> {
    let mut messages = Vec::new();
    let mut reported = HashSet::new();
    for report in reports {
        let Ok(task) = TaskId::from_bytes(&report.task_id) else { continue };
        reported.insert(task);
        match core.db.task(task).await {
            Ok(row) if row.runner == Some(runner) => {
                messages.extend(settle_reported(core, runner, &row, &report).await?);
            }
            Ok(_) | Err(ds_db::Error::NotFound { .. }) => messages.push(forget(task)),
            Err(error) => return Err(database(&error)),
        }
    }
    let assigned = core.db.tasks_of_runner(runner).await.map_err(|error| database(&error))?;
    for row in assigned.into_iter().filter(|row| !reported.contains(&row.task.id)) {
        messages.extend(settle_unreported(core, runner, row).await.map_err(|error| database(&error))?);
    }
    Ok(messages)
}

/// The runner has let go of a task. One that it still ought to have is one that it does not know of.
pub(super) async fn settle_released(
    core: &Core,
    runner: RunnerId,
    task: TaskId,
) -> Result<Option<to_runner::Message>, ds_db::Error> {
    match core.db.task(task).await {
        Ok(row) if row.runner == Some(runner) && row.task.state != State::Ended => {
            settle_unreported(core, runner, row).await
        }
        Ok(_) | Err(ds_db::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A task that the runner still holds.
async fn settle_reported(
    core: &Core,
    runner: RunnerId,
    row: &TaskRow,
    report: &TaskReport,
) -> Result<Vec<to_runner::Message>, Status> {
    let task = row.task.id;
    if row.task.state == State::Ended {
        return Ok(vec![finish::answer_to_ended(row)]);
    }
    let mut cancelling = row.task.cancelling;
    if let Some(phase) = convert::phase(report.phase) {
        // What was said while the runner was away is not true any more.
        let detail = if cancelling { "" } else { &row.task.detail };
        let noted = core.db.task_progress(task, runner, phase, detail, now_ms()).await;
        match noted.map_err(|error| database(&error))? {
            Some(noted) => cancelling = noted.cancelling,
            // It was taken back, or ended, just now.
            None => return Ok(vec![forget(task)]),
        }
    }
    let ack = LogAck { task_id: task.to_bytes(), offset: row.task.log_bytes };
    let mut messages = vec![to_runner::Message::LogAck(ack)];
    messages.extend(cancelling.then(|| stop_task(task)));
    Ok(messages)
}

/// A task that the database says the runner has, and the runner does not know of.
async fn settle_unreported(
    core: &Core,
    runner: RunnerId,
    row: TaskRow,
) -> Result<Option<to_runner::Message>, ds_db::Error> {
    let task = row.task.id;
    if row.task.cancelling {
        core.end_without_result(task, Outcome::Cancelled, "cancelled before its runner took it").await?;
        return Ok(None);
    }
    if row.task.state == State::Scheduled {
        tracing::info!(runner.id = %runner, task.id = %task, "telling a runner again to start a task");
        return Ok(scheduler::start_message(core, row));
    }
    tracing::warn!(runner.id = %runner, task.id = %task, "a runner does not have a task that it had");
    let error = "its runner came back without it: the runner's state or pool was lost, and with it what the command did; \
                 run it again";
    core.end_without_result(task, Outcome::Error, error).await?;
    Ok(None)
}
