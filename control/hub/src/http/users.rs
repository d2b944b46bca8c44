//! People.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::StatusCode,
};
use ds_domain::{
    UserId,
    api::{ChangePassword, ChangedPassword, CreateUser, CreatedUser, ErrorBody, Page, RemovedUser, User},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    caller::Caller,
    login,
    problem::Problem,
    request::{InPath, JsonBody},
};
use crate::{
    access::require_admin,
    auth::{MAX_PASSWORD, MAX_USERNAME, secret::random_password},
    clock::now_ms,
    core::Core,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_users, create_user))
        .routes(routes!(remove_user))
        .routes(routes!(change_password))
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
    let (hash, made) = hash_or_make(&core, request.password).await?;
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

/// Remove a user for good (admins; not oneself, and not the last admin). Sessions, API keys and memberships end; what they
/// made stays under their name, which nobody else can get. Tasks that they started go on.
#[utoipa::path(delete, path = "/api/v1/users/{username}", tag = "users", params(("username" = String, Path)),
    responses((status = 200, body = RemovedUser), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn remove_user(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(username): InPath<String>,
) -> Result<Json<RemovedUser>, Problem> {
    require_admin(&caller.user)?;
    let user = core.db.user_by_name(&username).await?;
    if user.id == caller.user.id {
        return Err(Problem::conflict("nobody removes themselves: ask another admin"));
    }
    let inherited = core.db.remove_user(user.id, caller.user.id, now_ms()).await?;
    tracing::info!(user.id = %user.id, by.user.id = %caller.user.id, "removed a user");
    Ok(Json(RemovedUser { inherited }))
}

/// Change a password: one's own, which takes the current one, or anybody else's (admins). All sessions of the user end; API
/// keys stay. Without a password in the request, the hub makes one and shows it once.
#[utoipa::path(put, path = "/api/v1/users/{username}/password", tag = "users", request_body = ChangePassword,
    params(("username" = String, Path)),
    responses((status = 200, body = ChangedPassword), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody)))]
async fn change_password(
    caller: Caller,
    State(core): State<Arc<Core>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    InPath(username): InPath<String>,
    JsonBody(request): JsonBody<ChangePassword>,
) -> Result<Json<ChangedPassword>, Problem> {
    let user = if username == caller.user.username {
        let wrong = || Problem::forbidden("the current password is missing or wrong");
        let current = request.current.filter(|current| current.len() <= MAX_PASSWORD).ok_or_else(wrong)?;
        let proven = login::prove(&core, &username, current, from.ip(), Instant::now()).await?;
        proven.ok_or_else(wrong)?
    } else {
        require_admin(&caller.user)?;
        core.db.user_by_name(&username).await?
    };
    let (hash, made) = hash_or_make(&core, request.password).await?;
    core.db.set_password(user.id, &hash).await?;
    tracing::info!(user.id = %user.id, by.user.id = %caller.user.id, "changed a password");
    Ok(Json(ChangedPassword { password: made }))
}

/// The hash to keep, and the password if none was given.
async fn hash_or_make(core: &Core, given: Option<String>) -> Result<(String, Option<String>), Problem> {
    if given.as_ref().is_some_and(|given| given.chars().count() < 8 || given.len() > MAX_PASSWORD) {
        return Err(Problem::invalid("a password has 8 to 1,024 characters"));
    }
    let made = given.is_none().then(random_password);
    let password = given.or_else(|| made.clone()).expect("one of the two is there");
    Ok((core.passwords.hash(password).await, made))
}

fn check_username(name: &str) -> Result<(), Problem> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if (1..=MAX_USERNAME).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Problem::invalid("a user name has 1 to 64 lower-case letters, digits, `-`, `_` or `.`"))
}
