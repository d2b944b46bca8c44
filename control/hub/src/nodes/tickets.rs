//! Grants to move one snapshot between a runner and the store.

use ds_db::TaskRow;
use ds_domain::{NodeId, RunnerId, SnapshotId, TaskId, task::State};
use ds_proto::v1::{Direction, Ticket, TicketGrant, TicketRequest, to_runner};
use tonic::Status;
use uuid::Uuid;

use super::database;
use crate::{clock::now_ms, core::Core};

/// How long a ticket works: ten minutes from being asked for to the transfer's opening.
const TICKET_MS: i64 = 10 * 60 * 1000;

/// Answers a request: with a ticket, or with the reason why there is none.
pub(super) async fn grant(
    core: &Core,
    runner: RunnerId,
    request: TicketRequest,
) -> Result<to_runner::Message, Status> {
    let request_id = request.request_id;
    let answer = match entitled(core, runner, &request).await? {
        Ok(ticket) => {
            let (ticket, store) = (Some(core.tickets.sign(&ticket)), Some(core.store_target.told()));
            TicketGrant { request_id, ticket, refusal: String::new(), store }
        }
        Err(refusal) => {
            tracing::warn!(runner.id = %runner, refusal, "refused a ticket");
            TicketGrant { request_id, ticket: None, refusal, store: None }
        }
    };
    Ok(to_runner::Message::Ticket(answer))
}

/// The ticket that the task entitles its runner to, or why it does not.
async fn entitled(
    core: &Core,
    runner: RunnerId,
    request: &TicketRequest,
) -> Result<Result<Ticket, String>, Status> {
    let Ok(task) = TaskId::from_bytes(&request.task_id) else {
        return Ok(Err("this is no task's id".into()));
    };
    let row = match core.db.task(task).await {
        Ok(row) => row,
        Err(ds_db::Error::NotFound { .. }) => return Ok(Err(format!("the hub does not know task {task}"))),
        Err(error) => return Err(database(&error)),
    };
    if row.runner != Some(runner) {
        return Ok(Err(format!("task {task} is not this runner's")));
    }
    if !matches!(row.task.state, State::Scheduled | State::Running) {
        return Ok(Err(format!("task {task} has ended")));
    }
    Ok(ticket(core, runner, &row, request.direction()))
}

fn ticket(core: &Core, runner: RunnerId, row: &TaskRow, direction: Direction) -> Result<Ticket, String> {
    let base = row.base_snapshot.ok_or_else(|| format!("task {} has no base", row.task.id))?;
    let (snapshot, base): (SnapshotId, Vec<u8>) = match direction {
        Direction::Pull => (base, Vec::new()),
        Direction::Push => (row.result, base.to_bytes()),
        Direction::Unspecified => return Err("the request names no direction".into()),
    };
    let now = now_ms();
    Ok(Ticket {
        id: Uuid::new_v4().as_bytes().to_vec(),
        peer: NodeId::from(runner).to_bytes(),
        store: core.store_target.node.to_bytes(),
        volume: row.volume.to_bytes(),
        snapshot: snapshot.to_bytes(),
        base,
        direction: direction.into(),
        issued_ms: now,
        expires_ms: now + TICKET_MS,
    })
}
