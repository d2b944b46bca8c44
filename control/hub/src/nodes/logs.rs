//! Log bytes of tasks, at their offsets.

use ds_domain::{TaskId, task::MAX_TASK_LOG};
use ds_proto::v1::{LogAck, LogChunk, to_runner};
use tonic::Status;

use super::{database, session::Session};

/// Stores a piece; the acknowledgement says how much is durable now, from which the runner goes on, also where it
/// left bytes out. Beyond [`MAX_TASK_LOG`] nothing is stored: a runner ends a task before that.
pub(super) async fn append(
    session: &mut Session,
    task: TaskId,
    chunk: LogChunk,
) -> Result<to_runner::Message, Status> {
    let Some(project) = session.project_of(task).await? else { return Ok(super::session::forget(task)) };
    let room = usize::try_from(MAX_TASK_LOG.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
    let data = &chunk.data[..chunk.data.len().min(room)];
    let core = &session.core;
    let offset = match core.db.append_log(task, chunk.offset, data).await {
        Ok(stored) => {
            metrics::counter!(crate::metrics::LOG_BYTES).increment(data.len() as u64);
            core.events.publish_log(task, project, stored);
            stored
        }
        Err(error @ ds_db::Error::LogGap { stored, .. }) => {
            tracing::warn!(runner.id = %session.runner, task.id = %task, %error, "a runner skipped log bytes");
            stored
        }
        Err(error) => return Err(database(&error)),
    };
    Ok(to_runner::Message::LogAck(LogAck { task_id: chunk.task_id, offset }))
}
