//! Files from a person's machine into a workspace or dataset.

use std::{io, sync::Arc};

use axum::{Json, body::Body, extract::State, http::StatusCode};
use ds_domain::{
    ProjectId, VolumeId,
    api::{Access, ErrorBody, Uploaded, User},
};
use futures_util::TryStreamExt;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, InQuery},
};
use crate::core::Core;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(upload_files))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadParams {
    /// The folder to unpack into, relative to the volume's root; else the root.
    #[serde(default)]
    path: String,
    /// The commit's message.
    #[serde(default)]
    message: String,
}

/// Unpack a tar over the workspace's head, and commit. The body is the tar, of any size.
///
/// If the head moves meanwhile, the upload is refused as a conflict, and can be sent again.
#[utoipa::path(post, path = "/api/v1/projects/{project}/upload", tag = "commits",
    params(("project" = String, Path, description = "Name or id"), UploadParams),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = Uploaded), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody), (status = 507, body = ErrorBody, description = "The store is full")))]
async fn upload_files(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(project): InPath<String>,
    InQuery(params): InQuery<UploadParams>,
    body: Body,
) -> Result<(StatusCode, Json<Uploaded>), Problem> {
    let project = core.project_for(&caller.user, &project, Access::Editor).await?;
    receive(&core, &caller.user, (project.id, project.workspace), params, body).await
}

/// Unpacks a request's body over a volume's head.
pub(super) async fn receive(
    core: &Core,
    user: &User,
    volume: (ProjectId, VolumeId),
    params: UploadParams,
    body: Body,
) -> Result<(StatusCode, Json<Uploaded>), Problem> {
    let tar = body.into_data_stream().map_err(io::Error::other);
    let commit = core.upload(user, volume, &params.path, &params.message, tar).await?;
    Ok((StatusCode::CREATED, Json(Uploaded { commit })))
}
