//! Runners.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_db::NewRunner;
use ds_domain::{
    RunnerId,
    api::{CreateRunner, CreatedRunner, ErrorBody, Event, Page, Runner},
};
use ds_link::RegistrationToken;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, JsonBody},
};
use crate::{
    access::require_admin,
    auth::{REGISTRATION_MS, secret::token_hash},
    clock::now_ms,
    core::Core,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_runners, create_runner))
        .routes(routes!(show_runner, delete_runner))
}

/// All runners, by name. Every user may see them.
#[utoipa::path(get, path = "/api/v1/runners", tag = "runners",
    responses((status = 200, body = Page<Runner>), (status = 401, body = ErrorBody)))]
async fn list_runners(_caller: Caller, State(core): State<Arc<Core>>) -> Result<Json<Page<Runner>>, Problem> {
    let rows = core.db.runners().await?;
    Ok(Json(Page { items: rows.into_iter().map(|row| core.seen_runner(row)).collect(), next: None }))
}

/// Make a runner and the one-time token with which its machine registers (admins). The token works for a day.
#[utoipa::path(post, path = "/api/v1/runners", tag = "runners", request_body = CreateRunner,
    responses((status = 201, body = CreatedRunner), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn create_runner(
    caller: Caller,
    State(core): State<Arc<Core>>,
    JsonBody(request): JsonBody<CreateRunner>,
) -> Result<(StatusCode, Json<CreatedRunner>), Problem> {
    require_admin(&caller.user)?;
    super::check_name("runner", &request.name)?;
    let token = RegistrationToken::generate(&core.info.node_address, core.ca.fingerprint())
        .map_err(|error| Problem::internal(&error))?;
    let now = now_ms();
    let new = NewRunner {
        id: RunnerId(Uuid::new_v4()),
        name: request.name,
        token: token_hash(&token.secret),
        token_expires_ms: now + REGISTRATION_MS,
        created_ms: now,
    };
    core.db.create_runner(&new).await?;
    tracing::info!(runner.id = %new.id, user.id = %caller.user.id, "made a runner");
    let runner = core.seen_runner(core.db.runner(new.id).await?);
    let created = CreatedRunner { runner, token: token.to_string(), expires_ms: new.token_expires_ms };
    Ok((StatusCode::CREATED, Json(created)))
}

/// A runner, by name or id.
#[utoipa::path(get, path = "/api/v1/runners/{runner}", tag = "runners",
    params(("runner" = String, Path, description = "Name or id")),
    responses((status = 200, body = Runner), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_runner(
    _caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(runner): InPath<String>,
) -> Result<Json<Runner>, Problem> {
    let row = core.db.find_runner(&runner).await?;
    Ok(Json(core.seen_runner(row)))
}

/// Remove a runner that has no task (admins). It gets no more of them, and is told to drop what it still holds.
#[utoipa::path(delete, path = "/api/v1/runners/{runner}", tag = "runners",
    params(("runner" = String, Path, description = "Name or id")),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete_runner(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(runner): InPath<String>,
) -> Result<StatusCode, Problem> {
    require_admin(&caller.user)?;
    let id = core.db.find_runner(&runner).await?.runner.id;
    core.db.remove_runner(id, now_ms()).await?;
    core.sessions.disconnect(id);
    core.nodes_changed.notify_one();
    core.events.publish(Event::Runner { id });
    tracing::info!(runner.id = %id, user.id = %caller.user.id, "removed a runner");
    Ok(StatusCode::NO_CONTENT)
}
