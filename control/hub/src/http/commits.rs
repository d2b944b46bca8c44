//! Commits and their files.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use ds_domain::api::{Access, Commit, ErrorBody, FileChange, FileEntry, Page};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    page::PageParams,
    problem::Problem,
    request::{InPath, InQuery},
};
use crate::core::Core;

/// Entries of a page of files, if the caller does not say, and at most.
const DEFAULT_FILES: u32 = 1000;
const MAX_FILES: u32 = 10_000;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_commits))
        .routes(routes!(show_commit))
        .routes(routes!(list_changes))
        .routes(routes!(list_files))
        .routes(routes!(read_file))
}

/// The workspace's commits, branches included, newest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/commits", tag = "commits",
    params(("project" = String, Path, description = "Name or id"), PageParams),
    responses((status = 200, body = Page<Commit>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_commits(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
    InQuery(page): InQuery<PageParams>,
) -> Result<Json<Page<Commit>>, Problem> {
    let project = core.project_for(&caller.user, &project, Access::Viewer).await?;
    Ok(Json(core.db.commits(project.workspace, page.limit(), page.cursor.as_deref()).await?))
}

/// A commit.
#[utoipa::path(get, path = "/api/v1/commits/{commit}", tag = "commits",
    params(("commit" = String, Path, description = "Id, or at least its first 4 characters")),
    responses((status = 200, body = Commit), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_commit(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(commit): InPath<String>,
) -> Result<Json<Commit>, Problem> {
    Ok(Json(core.commit_for(&caller.user, &commit).await?))
}

/// The files that differ from the commit's parent, by path.
#[utoipa::path(get, path = "/api/v1/commits/{commit}/changes", tag = "commits",
    params(("commit" = String, Path, description = "Id, or at least its first 4 characters")),
    responses((status = 200, body = Page<FileChange>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_changes(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(commit): InPath<String>,
) -> Result<Json<Page<FileChange>>, Problem> {
    let commit = core.commit_for(&caller.user, &commit).await?;
    Ok(Json(Page { items: core.db.commit_changes(commit.id).await?, next: None }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FilesParams {
    /// A folder, relative to the workspace's root; else the root.
    #[serde(default)]
    path: String,
    /// Whether to list what is below its folders too.
    #[serde(default)]
    recursive: bool,
    /// Entries a page: 1 to 10,000, else 1,000.
    limit: Option<u32>,
    /// `next` of the page before, asked with the same folder.
    #[serde(default)]
    cursor: String,
}

/// What is in a folder at a commit, by path.
#[utoipa::path(get, path = "/api/v1/commits/{commit}/files", tag = "commits",
    params(("commit" = String, Path, description = "Id, or at least its first 4 characters"), FilesParams),
    responses((status = 200, body = Page<FileEntry>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn list_files(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(commit): InPath<String>,
    InQuery(params): InQuery<FilesParams>,
) -> Result<Json<Page<FileEntry>>, Problem> {
    let commit = core.commit_for(&caller.user, &commit).await?;
    let limit = params.limit.unwrap_or(DEFAULT_FILES).clamp(1, MAX_FILES);
    let store = core.store_for_request().await?;
    let (path, after) = (&params.path, &params.cursor);
    let entries =
        store.list_files(commit.volume, commit.snapshot, path, params.recursive, after, limit).await?;
    // Where the last page is a full one, an empty one follows it.
    let full = entries.len() >= limit as usize;
    let next = entries.last().filter(|_| full).map(|last| last.path.clone());
    Ok(Json(Page { items: entries.into_iter().map(super::file_entry).collect(), next }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ContentParams {
    /// A file, relative to the workspace's root.
    path: String,
}

/// A file's bytes at a commit.
#[utoipa::path(get, path = "/api/v1/commits/{commit}/content", tag = "commits",
    params(("commit" = String, Path, description = "Id, or at least its first 4 characters"), ContentParams),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
async fn read_file(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(commit): InPath<String>,
    InQuery(params): InQuery<ContentParams>,
) -> Result<Response, Problem> {
    let commit = core.commit_for(&caller.user, &commit).await?;
    let content =
        core.store_for_request().await?.read_file(commit.volume, commit.snapshot, &params.path, 0, 0).await?;
    let headers = [
        (header::CONTENT_LENGTH, HeaderValue::from(content.size_bytes)),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // What a task wrote is never shown as a page of this site.
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, Body::from_stream(content.into_stream())).into_response())
}
