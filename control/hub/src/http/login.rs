//! Logging in and out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::StatusCode,
};
use ds_domain::api::{ErrorBody, LoginRequest, Token, User};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{caller::Caller, problem::Problem, request::JsonBody};
use crate::{
    auth::{
        MAX_PASSWORD, MAX_USERNAME, SESSION_MS,
        secret::{SESSION_PREFIX, random_token, token_hash},
    },
    clock::now_ms,
    core::Core,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(log_in)).routes(routes!(log_out)).routes(routes!(show_caller))
}

/// Trade a user name and a password for a session.
#[utoipa::path(post, path = "/api/v1/login", tag = "login", request_body = LoginRequest, security(()),
    responses((status = 200, body = Token), (status = 401, body = ErrorBody), (status = 429, body = ErrorBody)))]
async fn log_in(
    State(core): State<Arc<Core>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    JsonBody(request): JsonBody<LoginRequest>,
) -> Result<Json<Token>, Problem> {
    if request.username.len() > MAX_USERNAME || request.password.len() > MAX_PASSWORD {
        return Err(wrong());
    }
    let proven = prove(&core, &request.username, request.password, from.ip(), Instant::now()).await?;
    let user = proven.ok_or_else(wrong)?;
    let (token, now) = (random_token(SESSION_PREFIX), now_ms());
    core.db.create_session(token_hash(&token), user.id, now, now + SESSION_MS).await?;
    tracing::info!(user.id = %user.id, "logged in");
    Ok(Json(Token { token, expires_ms: Some(now + SESSION_MS), user }))
}

/// The user whose password this is; each attempt counts against guessing.
pub(super) async fn prove(
    core: &Core,
    username: &str,
    password: String,
    from: IpAddr,
    now: Instant,
) -> Result<Option<User>, Problem> {
    if let Err(wait) = core.logins.attempt(username, from, now) {
        metrics::counter!(crate::metrics::LOGINS_FAILED).increment(1);
        let seconds = wait.as_secs() + 1;
        return Err(Problem::too_many(format!(
            "too many failed logins from this address: try again in {seconds} seconds"
        )));
    }
    let credentials = core.db.credentials(username).await?;
    let hash = credentials.as_ref().map(|known| known.password_hash.clone());
    let matches = core.passwords.verify(password, hash).await;
    let user = credentials.filter(|_| matches).map(|known| known.user);
    if user.is_some() {
        core.logins.succeeded(username, from);
    } else {
        metrics::counter!(crate::metrics::LOGINS_FAILED).increment(1);
    }
    Ok(user)
}

fn wrong() -> Problem {
    Problem::unauthorized("the user name or the password is wrong")
}

/// End the session that this request is made with. An API key stays.
#[utoipa::path(post, path = "/api/v1/logout", tag = "login",
    responses((status = 204), (status = 401, body = ErrorBody)))]
async fn log_out(caller: Caller, State(core): State<Arc<Core>>) -> Result<StatusCode, Problem> {
    if let Some(session) = caller.session {
        core.db.delete_session(session).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Who is asking.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "login",
    responses((status = 200, body = User), (status = 401, body = ErrorBody)))]
async fn show_caller(caller: Caller) -> Json<User> {
    Json(caller.user)
}
