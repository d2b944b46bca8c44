//! Projects.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::api::{Access, CreateProject, ErrorBody, Page, Project};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, JsonBody},
};
use crate::core::Core;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_projects, create_project))
        .routes(routes!(show_project, delete_project))
}

/// The projects that the caller may see, by name.
#[utoipa::path(get, path = "/api/v1/projects", tag = "projects",
    responses((status = 200, body = Page<Project>), (status = 401, body = ErrorBody)))]
async fn list_projects(
    caller: Caller,
    State(core): State<Arc<Core>>,
) -> Result<Json<Page<Project>>, Problem> {
    Ok(Json(Page { items: core.db.projects(&caller.user).await?, next: None }))
}

/// Make a project with an empty workspace; the caller becomes its owner.
#[utoipa::path(post, path = "/api/v1/projects", tag = "projects", request_body = CreateProject,
    responses((status = 201, body = Project), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody, description = "The store is out of reach")))]
async fn create_project(
    caller: Caller,
    State(core): State<Arc<Core>>,
    JsonBody(request): JsonBody<CreateProject>,
) -> Result<(StatusCode, Json<Project>), Problem> {
    Ok((StatusCode::CREATED, Json(core.create_project(&caller.user, request).await?)))
}

/// A project, by name or id.
#[utoipa::path(get, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 200, body = Project), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_project(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
) -> Result<Json<Project>, Problem> {
    Ok(Json(core.project_for(&caller.user, &project, Access::Viewer).await?))
}

/// Delete a project with its runs, commits, logs and files, for good (owners). Refused while tasks are not over.
///
/// The store drops the files within half an hour. Runs of other projects that read from this one keep the ids.
#[utoipa::path(delete, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody, description = "Tasks are not over")))]
async fn delete_project(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
) -> Result<StatusCode, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Owner).await?;
    core.db.delete_project(project.id).await?;
    tracing::info!(project.id = %project.id, volume.id = %project.workspace, user.id = %caller.user.id, "deleted a project");
    Ok(StatusCode::NO_CONTENT)
}
