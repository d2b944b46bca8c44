//! Who may do what in a project or dataset.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::{
    ProjectId,
    api::{Access, ErrorBody, Member, Page},
};
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
    list(&core, project.id).await
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
    set(&core, project.id, &username, member.access).await
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
    remove(&core, project.id, &username).await
}

/// The members of a project or dataset.
pub(super) async fn list(core: &Core, place: ProjectId) -> Result<Json<Page<Member>>, Problem> {
    Ok(Json(Page { items: core.db.members(place).await?, next: None }))
}

/// Makes somebody a member, or changes what they may do.
pub(super) async fn set(
    core: &Core,
    place: ProjectId,
    username: &str,
    access: Access,
) -> Result<Json<Member>, Problem> {
    let user = core.db.user_by_name(username).await?;
    core.db.set_member(place, user.id, access).await?;
    tracing::info!(project.id = %place, user.id = %user.id, access = access.as_str(), "set a member");
    Ok(Json(Member { username: user.username, access }))
}

/// Takes somebody out.
pub(super) async fn remove(core: &Core, place: ProjectId, username: &str) -> Result<StatusCode, Problem> {
    let user = core.db.user_by_name(username).await?;
    core.db.remove_member(place, user.id).await?;
    tracing::info!(project.id = %place, user.id = %user.id, "removed a member");
    Ok(StatusCode::NO_CONTENT)
}
