//! Runs: listed, compared, recorded, traced.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::api::{Access, Comparison, ErrorBody, Page, Provenance, RecordRuns, Run};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, InQuery, JsonBody},
    run_query,
};
use crate::{compare::compare, core::Core};

/// Runs side by side.
const MAX_COMPARED: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_runs, record_runs))
        .routes(routes!(compare_runs))
        .routes(routes!(show_run))
        .routes(routes!(show_provenance))
}

/// A page of a project's runs; the newest first unless `sort` says otherwise.
///
/// A filter is `metric.NAME`, `parameter.NAME` or `label.NAME`, followed by `=`, `!=`, `<`, `<=`, `>`, `>=` or
/// `~` (contains) and a value; without an operator the run only has to have it. It can be given several times:
/// all have to hold.
#[utoipa::path(get, path = "/api/v1/projects/{project}/runs", tag = "runs",
    params(("project" = String, Path, description = "Name or id"),
        ("filter" = Option<Vec<String>>, Query, description = "Such as `metric.accuracy>0.9`"),
        ("sort" = Option<String>, Query, description = "`created`, or such as `metric.accuracy`"),
        ("order" = Option<String>, Query, description = "`desc` (the default) or `asc`"),
        ("limit" = Option<u32>, Query, description = "1 to 1,000, else 50"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before")),
    responses((status = 200, body = Page<Run>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn list_runs(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
    InQuery(pairs): InQuery<Vec<(String, String)>>,
) -> Result<Json<Page<Run>>, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Viewer).await?;
    Ok(Json(core.db.list_runs(project.id, &run_query::parse(pairs)?).await?))
}

/// Record runs of a program that is no task; they point at the workspace's head. The answer has all of them as
/// recorded. An input of another project that the caller may not see, or that is not there, stays as it was written and
/// is named among the run's conflicts.
#[utoipa::path(post, path = "/api/v1/projects/{project}/runs", tag = "runs", request_body = RecordRuns,
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 201, body = Page<Run>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn record_runs(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
    JsonBody(request): JsonBody<RecordRuns>,
) -> Result<(StatusCode, Json<Page<Run>>), Problem> {
    let project = core.project_for(&caller.user, &project, Access::Editor).await?;
    let items = core.record_runs(&caller.user, &project, request.runs).await?;
    Ok((StatusCode::CREATED, Json(Page { items, next: None })))
}

/// A run.
#[utoipa::path(get, path = "/api/v1/runs/{run}", tag = "runs",
    params(("run" = String, Path, description = "Id, or at least its first 4 characters")),
    responses((status = 200, body = Run), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_run(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(run): InPath<String>,
) -> Result<Json<Run>, Problem> {
    Ok(Json(core.run_for(&caller.user, &run).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CompareParams {
    /// Ids of 2 to 100 runs, with commas between.
    ids: String,
}

/// Several runs side by side, and the files that differ between the first and the last.
#[utoipa::path(get, path = "/api/v1/runs/compare", tag = "runs", params(CompareParams),
    responses((status = 200, body = Comparison), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn compare_runs(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InQuery(params): InQuery<CompareParams>,
) -> Result<Json<Comparison>, Problem> {
    let ids: Vec<&str> = params.ids.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if !(2..=MAX_COMPARED).contains(&ids.len()) {
        return Err(Problem::invalid(format!(
            "give 2 to {MAX_COMPARED} runs, such as ?ids=3f2c8a4e,91b0c2d4"
        )));
    }
    let mut runs = Vec::with_capacity(ids.len());
    for id in ids {
        runs.push(core.run_for(&caller.user, id).await?);
    }
    let (from, to) = (runs[0].commit, runs[runs.len() - 1].commit);
    let changed_files = core.db.changes_between(from, to).await?;
    Ok(Json(Comparison { rows: compare(&runs), runs, changed_files }))
}

/// Where a run's inputs come from, transitively, over tasks and projects.
///
/// A run of a project that the caller may not see appears with its id and its commit's alone, and ends the walk.
#[utoipa::path(get, path = "/api/v1/runs/{run}/provenance", tag = "runs",
    params(("run" = String, Path, description = "Id, or at least its first 4 characters")),
    responses((status = 200, body = Provenance), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_provenance(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(run): InPath<String>,
) -> Result<Json<Provenance>, Problem> {
    let run = core.run_for(&caller.user, &run).await?;
    Ok(Json(core.provenance(&caller.user, run.id).await?))
}
