//! Datasets.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State, http::StatusCode};
use ds_db::dataset_place;
use ds_domain::api::{
    Access, CloneDataset, Commit, CreateDataset, Dataset, ErrorBody, Member, Page, Uploaded,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    members,
    page::PageParams,
    problem::Problem,
    request::{InPath, InQuery, JsonBody},
    upload::{self, UploadParams},
};
use crate::core::Core;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_datasets, create_dataset))
        .routes(routes!(show_dataset, delete_dataset))
        .routes(routes!(clone_dataset))
        .routes(routes!(list_dataset_commits))
        .routes(routes!(upload_to_dataset))
        .routes(routes!(list_dataset_members))
        .routes(routes!(set_dataset_member, delete_dataset_member))
}

/// The datasets that the caller may see, by name.
#[utoipa::path(get, path = "/api/v1/datasets", tag = "datasets",
    responses((status = 200, body = Page<Dataset>), (status = 401, body = ErrorBody)))]
async fn list_datasets(
    caller: Caller,
    State(core): State<Arc<Core>>,
) -> Result<Json<Page<Dataset>>, Problem> {
    Ok(Json(Page { items: core.db.datasets(&caller.user).await?, next: None }))
}

/// Make an empty dataset; the caller becomes its owner.
#[utoipa::path(post, path = "/api/v1/datasets", tag = "datasets", request_body = CreateDataset,
    responses((status = 201, body = Dataset), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody, description = "The store is out of reach")))]
async fn create_dataset(
    caller: Caller,
    State(core): State<Arc<Core>>,
    JsonBody(request): JsonBody<CreateDataset>,
) -> Result<(StatusCode, Json<Dataset>), Problem> {
    Ok((StatusCode::CREATED, Json(core.create_dataset(&caller.user, request).await?)))
}

/// A dataset, by name or id.
#[utoipa::path(get, path = "/api/v1/datasets/{dataset}", tag = "datasets",
    params(("dataset" = String, Path, description = "Name or id")),
    responses((status = 200, body = Dataset), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_dataset(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(dataset): InPath<String>,
) -> Result<Json<Dataset>, Problem> {
    Ok(Json(core.dataset_for(&caller.user, &dataset, Access::Viewer).await?))
}

/// Delete a dataset with its commits and files, for good (owners). Refused while there are clones of it.
///
/// The store drops the files within half an hour. Runs that read from it keep the ids.
#[utoipa::path(delete, path = "/api/v1/datasets/{dataset}", tag = "datasets",
    params(("dataset" = String, Path, description = "Name or id")),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody, description = "There are clones of it")))]
async fn delete_dataset(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(dataset): InPath<String>,
) -> Result<StatusCode, Problem> {
    let dataset = core.dataset_for(&caller.user, &dataset, Access::Owner).await?;
    core.db.delete_dataset(dataset.id).await?;
    tracing::info!(volume.id = %dataset.id, user.id = %caller.user.id, "deleted a dataset");
    Ok(StatusCode::NO_CONTENT)
}

/// Make a dataset that begins with what a commit of this one has; the caller becomes its owner. Takes no time and no room.
#[utoipa::path(post, path = "/api/v1/datasets/{dataset}/clone", tag = "datasets", request_body = CloneDataset,
    params(("dataset" = String, Path, description = "Name or id")),
    responses((status = 201, body = Dataset), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn clone_dataset(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(dataset): InPath<String>,
    JsonBody(request): JsonBody<CloneDataset>,
) -> Result<(StatusCode, Json<Dataset>), Problem> {
    let source = core.dataset_for(&caller.user, &dataset, Access::Viewer).await?;
    Ok((StatusCode::CREATED, Json(core.clone_dataset(&caller.user, &source, request).await?)))
}

/// The dataset's commits, newest first.
#[utoipa::path(get, path = "/api/v1/datasets/{dataset}/commits", tag = "datasets",
    params(("dataset" = String, Path, description = "Name or id"), PageParams),
    responses((status = 200, body = Page<Commit>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_dataset_commits(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(dataset): InPath<String>,
    InQuery(page): InQuery<PageParams>,
) -> Result<Json<Page<Commit>>, Problem> {
    let dataset = core.dataset_for(&caller.user, &dataset, Access::Viewer).await?;
    Ok(Json(core.db.commits(dataset.id, page.limit(), page.cursor.as_deref()).await?))
}

/// Unpack a tar over the dataset's head, and commit. The body is the tar, of any size.
///
/// If the head moves meanwhile, the upload is refused as a conflict, and can be sent again.
#[utoipa::path(post, path = "/api/v1/datasets/{dataset}/upload", tag = "datasets",
    params(("dataset" = String, Path, description = "Name or id"), UploadParams),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = Uploaded), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody), (status = 507, body = ErrorBody, description = "The store is full")))]
async fn upload_to_dataset(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(dataset): InPath<String>,
    InQuery(params): InQuery<UploadParams>,
    body: Body,
) -> Result<(StatusCode, Json<Uploaded>), Problem> {
    let dataset = core.dataset_for(&caller.user, &dataset, Access::Editor).await?;
    upload::receive(&core, &caller.user, (dataset_place(dataset.id), dataset.id), params, body).await
}

/// The members, by name.
#[utoipa::path(get, path = "/api/v1/datasets/{dataset}/members", tag = "datasets",
    params(("dataset" = String, Path, description = "Name or id")),
    responses((status = 200, body = Page<Member>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_dataset_members(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(dataset): InPath<String>,
) -> Result<Json<Page<Member>>, Problem> {
    let dataset = core.dataset_for(&caller.user, &dataset, Access::Viewer).await?;
    members::list(&core, dataset_place(dataset.id)).await
}

/// Add a member, or change what one may do (owners). The name in the address counts, not the body's.
#[utoipa::path(put, path = "/api/v1/datasets/{dataset}/members/{username}", tag = "datasets", request_body = Member,
    params(("dataset" = String, Path, description = "Name or id"), ("username" = String, Path)),
    responses((status = 200, body = Member), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn set_dataset_member(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath((dataset, username)): InPath<(String, String)>,
    JsonBody(member): JsonBody<Member>,
) -> Result<Json<Member>, Problem> {
    let dataset = core.dataset_for(&caller.user, &dataset, Access::Owner).await?;
    members::set(&core, dataset_place(dataset.id), &username, member.access).await
}

/// Remove a member (owners).
#[utoipa::path(delete, path = "/api/v1/datasets/{dataset}/members/{username}", tag = "datasets",
    params(("dataset" = String, Path, description = "Name or id"), ("username" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete_dataset_member(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath((dataset, username)): InPath<(String, String)>,
) -> Result<StatusCode, Problem> {
    let dataset = core.dataset_for(&caller.user, &dataset, Access::Owner).await?;
    members::remove(&core, dataset_place(dataset.id), &username).await
}
