//! People.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use ds_domain::{
    UserId,
    api::{CreateUser, CreatedUser, ErrorBody, Page, User},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{caller::Caller, problem::Problem, request::JsonBody};
use crate::{
    access::require_admin,
    auth::{MAX_PASSWORD, MAX_USERNAME, secret::random_password},
    clock::now_ms,
    core::Core,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_users, create_user))
}

/// All users, by name (admins).
#[utoipa::path(get, path = "/api/v1/users", tag = "users",
    responses((status = 200, body = Page<User>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn list_users(caller: Caller, State(core): State<Arc<Core>>) -> Result<Json<Page<User>>, Problem> {
    require_admin(&caller.user)?;
    Ok(Json(Page { items: core.db.users().await?, next: None }))
}

/// Make a user (admins). Without a password in the request, the hub makes one and shows it once.
#[utoipa::path(post, path = "/api/v1/users", tag = "users", request_body = CreateUser,
    responses((status = 201, body = CreatedUser), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn create_user(
    caller: Caller,
    State(core): State<Arc<Core>>,
    JsonBody(request): JsonBody<CreateUser>,
) -> Result<(StatusCode, Json<CreatedUser>), Problem> {
    require_admin(&caller.user)?;
    check_username(&request.username)?;
    if request
        .password
        .as_ref()
        .is_some_and(|password| password.chars().count() < 8 || password.len() > MAX_PASSWORD)
    {
        return Err(Problem::invalid("a password has 8 to 1,024 characters"));
    }
    let made = request.password.is_none().then(random_password);
    let password = request.password.or_else(|| made.clone()).expect("one of the two is there");
    let hash = core.passwords.hash(password).await;
    let user = User {
        id: UserId(Uuid::new_v4()),
        username: request.username,
        admin: request.admin,
        created_ms: now_ms(),
    };
    core.db.create_user(&user, &hash).await?;
    tracing::info!(user.id = %user.id, by.user.id = %caller.user.id, "made a user");
    Ok((StatusCode::CREATED, Json(CreatedUser { user, password: made })))
}

fn check_username(name: &str) -> Result<(), Problem> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if (1..=MAX_USERNAME).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Problem::invalid("a user name has 1 to 64 lower-case letters, digits, `-`, `_` or `.`"))
}
