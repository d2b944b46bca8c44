//! Log bytes of tasks, at their offsets.

use ds_domain::{ProjectId, RunnerId, TaskId, api::Event};
use ds_proto::v1::{LogAck, LogChunk, to_runner};
use tonic::Status;

use super::{database, session::Session};
use crate::core::Core;

/// The protocol's limit for one chunk.
const CHUNK_BYTES: usize = 64 * 1024;

/// Stores a chunk; the acknowledgement says how much is durable now.
pub(super) async fn append(session: &mut Session, chunk: LogChunk) -> Result<to_runner::Message, Status> {
    let task = super::session::task_id(&chunk.task_id)?;
    if chunk.data.len() > CHUNK_BYTES {
        return Err(Status::invalid_argument("a log chunk is larger than 64 KiB"));
    }
    let Some(project) = session.project_of(task).await? else { return Ok(super::session::forget(task)) };
    store(&session.core, session.runner, task, project, chunk).await
}

async fn store(
    core: &Core,
    runner: RunnerId,
    task: TaskId,
    project: ProjectId,
    chunk: LogChunk,
) -> Result<to_runner::Message, Status> {
    match core.db.append_log(task, chunk.offset, &chunk.data).await {
        Ok(bytes) => {
            metrics::counter!(crate::metrics::LOG_BYTES).increment(chunk.data.len() as u64);
            core.events.publish(Event::Log { id: task, project, bytes });
            Ok(to_runner::Message::LogAck(LogAck { task_id: chunk.task_id, offset: bytes }))
        }
        // The runner learns what is stored when it connects again, and goes on from there.
        Err(error @ ds_db::Error::LogGap { .. }) => {
            tracing::warn!(runner.id = %runner, task.id = %task, %error, "a runner skipped log bytes");
            Err(Status::failed_precondition(error.to_string()))
        }
        Err(error) => Err(database(&error)),
    }
}
