//! What the hub counts, for Prometheus.

use std::sync::OnceLock;

use axum::{Router, http::header, response::IntoResponse, routing::get};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

/// Answered requests; labels `method`, `route` (the pattern, not the address) and `status`.
pub(crate) const HTTP_REQUESTS: &str = "ds_hub_http_requests_total";
/// Seconds from a request to the head of its answer; labels `method` and `route`.
pub(crate) const HTTP_SECONDS: &str = "ds_hub_http_request_duration_seconds";
/// Runners with a session.
pub(crate) const RUNNERS_CONNECTED: &str = "ds_hub_runners_connected";
/// Ended tasks; label `outcome`.
pub(crate) const TASKS_ENDED: &str = "ds_hub_tasks_ended_total";
/// Recorded runs; label `authority`.
pub(crate) const RUNS_RECORDED: &str = "ds_hub_runs_recorded_total";
/// Stored bytes of task logs.
pub(crate) const LOG_BYTES: &str = "ds_hub_log_bytes_total";
/// Refused or failed logins.
pub(crate) const LOGINS_FAILED: &str = "ds_hub_logins_failed_total";
/// Snapshots dropped at the store because nothing points at them.
pub(crate) const SNAPSHOTS_COLLECTED: &str = "ds_hub_snapshots_collected_total";

const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Installs the process's recorder of metrics, which [`Hub::build`](crate::Hub::build) does too. Called before other parts
/// start in the same process, it has their descriptions as well.
pub fn install_metrics() {
    recorder();
}

/// The process's recorder, installed on first use. Where another part of the program has installed one already,
/// the answer of `/metrics` stays empty and that part's own page has the figures.
pub(crate) fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

/// Serves this process's metrics at `/metrics`, for roles that run without a hub, until it is dropped.
pub async fn serve_metrics(listener: TcpListener) -> std::io::Result<()> {
    let handle = recorder();
    let show = move || {
        let page = page(&handle);
        async move { page }
    };
    axum::serve(listener, Router::new().route("/metrics", get(show))).await
}

/// The answer of `/metrics`.
pub(crate) fn page(handle: &PrometheusHandle) -> impl IntoResponse + use<> {
    handle.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render())
}

fn install() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .expect("the list of buckets is not empty")
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another recorder of metrics is installed: /metrics of the hub stays empty");
    }
    describe();
    handle
}

fn describe() {
    describe_counter!(HTTP_REQUESTS, "Answered HTTP requests");
    describe_histogram!(HTTP_SECONDS, Unit::Seconds, "Time from a request to the head of its answer");
    describe_gauge!(RUNNERS_CONNECTED, "Runners with a session");
    describe_counter!(TASKS_ENDED, "Ended tasks");
    describe_counter!(RUNS_RECORDED, "Recorded runs");
    describe_counter!(LOG_BYTES, Unit::Bytes, "Stored bytes of task logs");
    describe_counter!(LOGINS_FAILED, "Refused or failed logins");
    describe_counter!(SNAPSHOTS_COLLECTED, "Snapshots dropped because nothing points at them");
}
