//! The session of a runner that was removed: it is told to drop what it still holds, and nothing else.

use std::{collections::HashSet, sync::Arc};

use ds_domain::{RunnerId, TaskId};
use ds_proto::v1::{FromRunner, TaskReport, TicketGrant, from_runner, to_runner};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    convert,
    session::{SILENCE, forget, removed, task_id, welcome},
    sessions::{Outgoing, QUEUE},
};
use crate::core::Core;

/// Opens the session of a removed runner. It ends as soon as the runner holds nothing any more; one that comes
/// without anything is refused at once.
pub(super) fn open(
    core: &Arc<Core>,
    runner: RunnerId,
    reports: &[TaskReport],
    incoming: Streaming<FromRunner>,
) -> Result<ReceiverStream<Outgoing>, Status> {
    let held: HashSet<TaskId> = reports.iter().filter_map(|report| task_id(&report.task_id).ok()).collect();
    if held.is_empty() {
        return Err(removed());
    }
    tracing::info!(runner.id = %runner, tasks = held.len(), "a removed runner came back; it is told to drop its tasks");
    let (outgoing, receiver) = mpsc::channel(QUEUE);
    let shutdown = core.shutdown.clone();
    core.tasks.spawn(async move {
        let ended = tokio::select! {
            () = shutdown.cancelled() => Status::unavailable("the hub stops: connect again"),
            ended = talk(held, incoming, &outgoing) => ended,
        };
        let _ = outgoing.try_send(Err(ended));
    });
    Ok(ReceiverStream::new(receiver))
}

/// Says to forget each task, and again whenever the runner speaks of one. Returns why the session ends.
async fn talk(
    mut held: HashSet<TaskId>,
    mut incoming: Streaming<FromRunner>,
    outgoing: &mpsc::Sender<Outgoing>,
) -> Status {
    let say = async |message| {
        let sent = tokio::time::timeout(SILENCE, outgoing.send(Ok(convert::to_runner(message)))).await;
        matches!(sent, Ok(Ok(())))
    };
    let mut told = say(welcome()).await;
    for task in &held {
        told = told && say(forget(*task)).await;
    }
    while told && !held.is_empty() {
        let message = match tokio::time::timeout(SILENCE, incoming.message()).await {
            Ok(Ok(Some(message))) => message.message,
            Ok(Ok(None)) => return Status::cancelled("the runner ended its session"),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("the runner was silent for 30 seconds"),
        };
        let Some(message) = message else { continue };
        if let from_runner::Message::Released(released) = &message {
            held.retain(|task| task.to_bytes() != released.task_id);
        }
        if let Some(answer) = answer(message) {
            told = say(answer).await;
        }
    }
    if told { removed() } else { Status::resource_exhausted("the runner does not read") }
}

fn answer(message: from_runner::Message) -> Option<to_runner::Message> {
    let about = match message {
        from_runner::Message::Progress(progress) => progress.task_id,
        from_runner::Message::Log(chunk) => chunk.task_id,
        from_runner::Message::Finished(finished) => finished.task_id,
        from_runner::Message::TicketRequest(request) => {
            let refusal = "this runner was removed from the hub".to_owned();
            let grant = TicketGrant { request_id: request.request_id, refusal, ..TicketGrant::default() };
            return Some(to_runner::Message::Ticket(grant));
        }
        from_runner::Message::Hello(_)
        | from_runner::Message::Released(_)
        | from_runner::Message::Heartbeat(_) => return None,
    };
    task_id(&about).ok().map(forget)
}
