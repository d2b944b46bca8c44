//! Who may do what in a project.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::api::{Access, ErrorBody, Member, Page};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, JsonBody},
};
use crate::core::Core;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_members)).routes(routes!(set_member, delete_member))
}

/// The members, by name.
#[utoipa::path(get, path = "/api/v1/projects/{project}/members", tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 200, body = Page<Member>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_members(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
) -> Result<Json<Page<Member>>, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Viewer).await?;
    Ok(Json(Page { items: core.db.members(project.id).await?, next: None }))
}

/// Add a member, or change what one may do (owners). The name in the address counts, not the body's.
#[utoipa::path(put, path = "/api/v1/projects/{project}/members/{username}", tag = "projects", request_body = Member,
    params(("project" = String, Path, description = "Name or id"), ("username" = String, Path)),
    responses((status = 200, body = Member), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn set_member(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath((project, username)): InPath<(String, String)>,
    JsonBody(member): JsonBody<Member>,
) -> Result<Json<Member>, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Owner).await?;
    let user = core.db.user_by_name(&username).await?;
    core.db.set_member(project.id, user.id, member.access).await?;
    tracing::info!(project.id = %project.id, user.id = %user.id, access = member.access.as_str(), "set a member");
    Ok(Json(Member { username: user.username, access: member.access }))
}

/// Remove a member (owners).
#[utoipa::path(delete, path = "/api/v1/projects/{project}/members/{username}", tag = "projects",
    params(("project" = String, Path, description = "Name or id"), ("username" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete_member(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath((project, username)): InPath<(String, String)>,
) -> Result<StatusCode, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Owner).await?;
    let user = core.db.user_by_name(&username).await?;
    core.db.remove_member(project.id, user.id).await?;
    tracing::info!(project.id = %project.id, user.id = %user.id, "removed a member");
    Ok(StatusCode::NO_CONTENT)
}
