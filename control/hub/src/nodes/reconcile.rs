//! What a runner that connects should do: its own account against the database's.

use std::collections::HashSet;

use ds_db::TaskRow;
use ds_domain::{
    RunnerId, TaskId,
    task::{Outcome, State},
};
use ds_proto::v1::{self, LogAck, StopTask, TaskReport, to_runner};
use tonic::Status;

use super::{convert, database, session::forget};
use crate::{clock::now_ms, core::Core, finish, scheduler};

/// The messages that bring runner and database together. Saying them twice does no harm.
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
                settle_reported(core, runner, &row, &report, &mut messages).await?;
            }
            Ok(_) | Err(ds_db::Error::NotFound { .. }) => messages.push(forget(task)),
            Err(error) => return Err(database(&error)),
        }
    }
    let assigned = core.db.tasks_of_runner(runner).await.map_err(|error| database(&error))?;
    for row in assigned.into_iter().filter(|row| !reported.contains(&row.task.id)) {
        settle_unreported(core, runner, row).await.map_err(|error| database(&error))?;
    }
    Ok(messages)
}

/// A task that the runner still holds.
async fn settle_reported(
    core: &Core,
    runner: RunnerId,
    row: &TaskRow,
    report: &TaskReport,
    messages: &mut Vec<to_runner::Message>,
) -> Result<(), Status> {
    if row.task.state == State::Ended {
        messages.push(finish::answer_to_ended(row));
        return Ok(());
    }
    if let Some(phase) = convert::phase(report.phase) {
        let noted = core.db.task_progress(row.task.id, runner, phase, &row.task.detail, now_ms()).await;
        noted.map_err(|error| database(&error))?;
    }
    let task_id = row.task.id.to_bytes();
    messages
        .push(to_runner::Message::LogAck(LogAck { task_id: task_id.clone(), offset: row.task.log_bytes }));
    if row.task.cancelling {
        messages.push(to_runner::Message::Stop(StopTask { task_id, reason: v1::Outcome::Cancelled.into() }));
    }
    Ok(())
}

/// A task that the database says the runner has, and the runner does not know of.
async fn settle_unreported(core: &Core, runner: RunnerId, row: TaskRow) -> Result<(), ds_db::Error> {
    let task = row.task.id;
    if row.task.cancelling {
        return core
            .end_without_result(task, Outcome::Cancelled, "cancelled before its runner took it")
            .await;
    }
    if row.task.state == State::Scheduled {
        tracing::info!(runner.id = %runner, task.id = %task, "telling a runner again to start a task");
        scheduler::send_start(core, runner, row);
        return Ok(());
    }
    tracing::warn!(runner.id = %runner, task.id = %task, "a runner came back without a task that it had");
    let error = "its runner came back without it: the runner's state or pool was lost, and with it what the command did; \
                 run it again";
    core.end_without_result(task, Outcome::Error, error).await
}
