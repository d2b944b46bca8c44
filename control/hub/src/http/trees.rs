//! Trees of datasets that nodes keep in step: the hub only permits it.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::{
    NodeId, TreeName,
    api::{CreateTreeTicket, ErrorBody, TreeDirection, TreeTicketGrant},
};
use ds_proto::v1::{Direction, TreeTicket};
use ds_transfer::ticket;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, JsonBody},
};
use crate::{access::require_admin, clock::now_ms, core::Core};

/// How long a ticket works: whoever runs a sync asks for the next one in time.
const TICKET_MS: i64 = 50 * 60 * 1000;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(create_tree_ticket))
}

/// Permit a node to bring a tree of datasets to the store or to another node, or to fetch it (admins). The ticket
/// works for 50 minutes, and only in the hands of that node.
#[utoipa::path(post, path = "/api/v1/trees/{tree}/tickets", tag = "trees", request_body = CreateTreeTicket,
    params(("tree" = String, Path, description = "The tree's name where it lies")),
    responses((status = 201, body = TreeTicketGrant), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn create_tree_ticket(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(tree): InPath<String>,
    JsonBody(request): JsonBody<CreateTreeTicket>,
) -> Result<(StatusCode, Json<TreeTicketGrant>), Problem> {
    require_admin(&caller.user)?;
    let tree: TreeName = tree.parse().map_err(|error| Problem::invalid(format!("{error}")))?;
    let store = core.store_target.node;
    if request.peer != store {
        registered(&core, &request.peer.to_string()).await?;
    }
    let host = match &request.host {
        None => store,
        Some(runner) => registered(&core, runner).await?,
    };
    let direction = match request.direction {
        TreeDirection::Push => Direction::Push,
        TreeDirection::Pull => Direction::Pull,
    };
    let now = now_ms();
    let signed = core.tickets.sign_tree(&TreeTicket {
        peer: request.peer.to_bytes(),
        host: host.to_bytes(),
        tree: tree.to_string(),
        direction: direction.into(),
        issued_ms: now,
        expires_ms: now + TICKET_MS,
    });
    tracing::info!(tree.name = %tree, peer.id = %request.peer, host.id = %host, ?direction, user.id = %caller.user.id,
        "permitted a node to move a tree");
    let grant = TreeTicketGrant {
        ticket: ticket::to_text(&signed),
        host,
        address: request.host.is_none().then(|| core.store_target.told().address),
        expires_ms: now + TICKET_MS,
    };
    Ok((StatusCode::CREATED, Json(grant)))
}

/// The node behind a runner, by name or id.
async fn registered(core: &Core, runner: &str) -> Result<NodeId, Problem> {
    let runner = core.db.find_runner(runner).await?.runner;
    if runner.registered {
        return Ok(runner.id.into());
    }
    Err(Problem::invalid(format!(
        "runner {} has not registered yet: start it with its token first",
        runner.name
    )))
}
