//! Tasks as people handle them: queued, cancelled.

use ds_db::{Cancelled, NewTask, TaskEnd, TaskRow};
use ds_domain::{
    ProjectId, RunnerId, SnapshotId, TaskId,
    api::{CreateTask, Event, Task, User},
    task::Outcome,
};
use ds_proto::v1::{self, StopTask, to_runner};
use uuid::Uuid;

use crate::{clock::now_ms, core::Core, http::Problem};

impl Core {
    /// Queues a task. The bool says whether it is new.
    pub(crate) async fn create_task(
        &self,
        user: &User,
        project: ProjectId,
        request: CreateTask,
    ) -> Result<(Task, bool), Problem> {
        let mut spec = request.spec;
        spec.validate().map_err(Problem::invalid)?;
        if spec.image.is_empty() {
            spec.image.clone_from(&self.info.default_image);
        }
        let id = request.id.unwrap_or_else(|| TaskId(Uuid::new_v4()));
        let result = SnapshotId(Uuid::new_v4());
        let new = NewTask { id, project, author: user.id, spec, result, created_ms: now_ms() };
        let created = self.db.create_task(&new).await?;
        if created {
            tracing::info!(task.id = %id, project.id = %project, user.id = %user.id, "queued a task");
            self.events.publish(Event::Task { id, project });
            self.events.wake_scheduler();
        }
        Ok((self.db.task(id).await?.task, created))
    }

    /// Asks for the end of a task. Asking twice is asking once, unless its runner is offline.
    pub(crate) async fn cancel_task(&self, row: &TaskRow) -> Result<Task, Problem> {
        let (id, project) = (row.task.id, row.task.project);
        match self.db.cancel_task(id, now_ms()).await? {
            Cancelled::Over => {}
            Cancelled::Ended => count_end(Outcome::Cancelled),
            Cancelled::Stopping(runner) => self.stop(row, runner).await?,
        }
        self.events.publish(Event::Task { id, project });
        let mut task = self.db.task(id).await?.task;
        self.fill_what_is_now(std::slice::from_mut(&mut task)).await?;
        Ok(task)
    }

    /// Tells the runner. Where it is offline, it is told when it comes back, and what the command did is kept;
    /// only a person who asks once more gives that up, and then the runner is told to drop it.
    async fn stop(&self, row: &TaskRow, runner: RunnerId) -> Result<(), ds_db::Error> {
        let task = row.task.id;
        if self.sessions.send(runner, stop_task(task)) {
            return Ok(());
        }
        let seen = self.db.runner(runner).await.ok().and_then(|row| row.runner.seen_ms);
        if self.is_online(runner, seen) {
            return Ok(());
        }
        if !row.task.cancelling {
            let detail = "the runner is offline; cancel again to give up what it did";
            return self.db.note_detail(task, detail).await;
        }
        let error = "its runner was offline when it was cancelled: what the command did since the runner was last \
                     heard is not kept";
        self.end_without_result(task, Outcome::Cancelled, error).await
    }

    /// Ends a task of which there is no result.
    pub(crate) async fn end_without_result(
        &self,
        task: TaskId,
        outcome: Outcome,
        error: &str,
    ) -> Result<(), ds_db::Error> {
        let row = self.db.task(task).await?;
        let end = TaskEnd {
            outcome,
            exit_code: None,
            error: error.to_owned(),
            warnings: Vec::new(),
            started_ms: row.task.started_ms,
            ended_ms: now_ms(),
        };
        if self.db.end_task(task, &end).await? {
            tracing::info!(task.id = %task, outcome = %outcome, "ended a task without a result");
            count_end(outcome);
            self.events.publish(Event::Task { id: task, project: row.task.project });
            self.events.wake_scheduler();
        }
        Ok(())
    }
}

/// What tells a runner to end a task, because a person asked for it.
pub(crate) fn stop_task(task: TaskId) -> to_runner::Message {
    let reason = v1::Outcome::Cancelled.into();
    to_runner::Message::Stop(StopTask { task_id: task.to_bytes(), reason })
}

/// Counts a task's end for Prometheus.
pub(crate) fn count_end(outcome: Outcome) {
    metrics::counter!(crate::metrics::TASKS_ENDED, "outcome" => outcome.as_str()).increment(1);
}
