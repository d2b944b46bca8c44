//! Tasks.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::api::{Access, CreateTask, ErrorBody, Page, Task};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    page::PageParams,
    problem::Problem,
    request::{InPath, InQuery, JsonBody},
};
use crate::{access::hide_from, core::Core};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_tasks, create_task))
        .routes(routes!(show_task))
        .routes(routes!(cancel_task))
}

/// A project's tasks, newest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/tasks", tag = "tasks",
    params(("project" = String, Path, description = "Name or id"), PageParams),
    responses((status = 200, body = Page<Task>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_tasks(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
    InQuery(page): InQuery<PageParams>,
) -> Result<Json<Page<Task>>, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Viewer).await?;
    let mut tasks = core.db.tasks(project.id, page.limit(), page.cursor.as_deref()).await?;
    for task in &mut tasks.items {
        hide_from(project.access, &mut task.spec);
    }
    core.fill_what_is_now(&mut tasks.items).await?;
    Ok(Json(tasks))
}

/// Queue a task. With an id chosen by the caller, asking twice makes one task.
#[utoipa::path(post, path = "/api/v1/projects/{project}/tasks", tag = "tasks", request_body = CreateTask,
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 201, body = Task), (status = 200, body = Task, description = "It was there already"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn create_task(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
    JsonBody(request): JsonBody<CreateTask>,
) -> Result<(StatusCode, Json<Task>), Problem> {
    let project = core.project_for(&caller.user, &project, Access::Editor).await?;
    let (task, new) = core.create_task(&caller.user, project.id, request).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(task)))
}

/// A task.
#[utoipa::path(get, path = "/api/v1/tasks/{task}", tag = "tasks",
    params(("task" = String, Path, description = "Id, or at least its first 4 characters")),
    responses((status = 200, body = Task), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_task(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(task): InPath<String>,
) -> Result<Json<Task>, Problem> {
    let mut task = core.task_for(&caller.user, &task, Access::Viewer).await?.task;
    core.fill_what_is_now(std::slice::from_mut(&mut task)).await?;
    Ok(Json(task))
}

/// Ask for the end of a task. One that waits ends at once; one that runs is stopped, and what it did is kept.
#[utoipa::path(post, path = "/api/v1/tasks/{task}/cancel", tag = "tasks",
    params(("task" = String, Path, description = "Id, or at least its first 4 characters")),
    responses((status = 200, body = Task), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn cancel_task(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(task): InPath<String>,
) -> Result<Json<Task>, Problem> {
    let row = core.task_for(&caller.user, &task, Access::Editor).await?;
    tracing::info!(task.id = %row.task.id, user.id = %caller.user.id, "cancelling a task");
    Ok(Json(core.cancel_task(&row).await?))
}
