//! Whether the hub lives, whether what it needs answers, and what it counts.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use ds_domain::api::{ErrorBody, HubInfo};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{core::Core, error::chain, store_clock::tell_store};

/// How long database and store have to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(show_hub))
        .routes(routes!(check_alive))
        .routes(routes!(check_ready))
        .routes(routes!(show_metrics))
}

/// What this hub is, and where nodes connect.
#[utoipa::path(get, path = "/api/v1/hub", tag = "hub", security(()), responses((status = 200, body = HubInfo)))]
async fn show_hub(State(core): State<Arc<Core>>) -> Json<HubInfo> {
    Json(core.info.clone())
}

/// Answers while the process lives.
#[utoipa::path(get, path = "/healthz", tag = "hub", security(()), responses((status = 200, body = String)))]
async fn check_alive() -> &'static str {
    "ok\n"
}

/// Answers 200 if the database and the store do; else the message says which does not.
#[utoipa::path(get, path = "/readyz", tag = "hub", security(()),
    responses((status = 200, body = String), (status = 503, body = ErrorBody)))]
async fn check_ready(State(core): State<Arc<Core>>) -> axum::response::Response {
    let (database, store) = tokio::join!(
        tokio::time::timeout(PATIENCE, core.db.ping()),
        tokio::time::timeout(PATIENCE, tell_store(&core)),
    );
    let mut faults = Vec::new();
    match database {
        Ok(Ok(())) => {}
        Ok(Err(error)) => faults.push(format!("the database does not answer ({})", chain(&error))),
        Err(_) => faults.push("the database does not answer in time".to_owned()),
    }
    match store {
        Ok(Ok(())) => {}
        Ok(Err(error)) => faults.push(format!("the store does not answer ({})", chain(&*error))),
        Err(_) => faults.push("the store does not answer in time".to_owned()),
    }
    if faults.is_empty() {
        return "ok\n".into_response();
    }
    let body = ErrorBody { code: "unavailable".into(), message: faults.join("; ") };
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// For Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "hub", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn show_metrics(State(core): State<Arc<Core>>) -> impl IntoResponse {
    crate::metrics::page(&core.metrics)
}
