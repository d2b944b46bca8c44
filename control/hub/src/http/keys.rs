//! A user's own API keys.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::api::{ApiKey, CreateKey, ErrorBody, Page, Token};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, JsonBody},
};
use crate::{
    auth::secret::{KEY_PREFIX, random_token, token_hash},
    clock::now_ms,
    core::Core,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_keys, create_key)).routes(routes!(delete_key))
}

/// The caller's API keys, oldest first; their secrets are not shown again.
#[utoipa::path(get, path = "/api/v1/keys", tag = "login",
    responses((status = 200, body = Page<ApiKey>), (status = 401, body = ErrorBody)))]
async fn list_keys(caller: Caller, State(core): State<Arc<Core>>) -> Result<Json<Page<ApiKey>>, Problem> {
    Ok(Json(Page { items: core.db.keys(caller.user.id).await?, next: None }))
}

/// Make an API key. The answer is the only place where it is shown.
#[utoipa::path(post, path = "/api/v1/keys", tag = "login", request_body = CreateKey,
    responses((status = 201, body = Token), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn create_key(
    caller: Caller,
    State(core): State<Arc<Core>>,
    JsonBody(request): JsonBody<CreateKey>,
) -> Result<(StatusCode, Json<Token>), Problem> {
    if request.name.trim().is_empty() || request.name.len() > 100 {
        return Err(Problem::invalid("give the key a name of 1 to 100 characters that says what it is for"));
    }
    let key = ApiKey { id: Uuid::new_v4(), name: request.name, created_ms: now_ms(), used_ms: None };
    let token = random_token(KEY_PREFIX);
    core.db.create_key(caller.user.id, &key, token_hash(&token)).await?;
    tracing::info!(user.id = %caller.user.id, key.id = %key.id, "made an API key");
    Ok((StatusCode::CREATED, Json(Token { token, expires_ms: None, user: caller.user })))
}

/// Revoke one of the caller's API keys.
#[utoipa::path(delete, path = "/api/v1/keys/{key}", tag = "login", params(("key" = Uuid, Path, description = "Its id")),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn delete_key(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(key): InPath<Uuid>,
) -> Result<StatusCode, Problem> {
    core.db.delete_key(caller.user.id, key).await?;
    Ok(StatusCode::NO_CONTENT)
}
