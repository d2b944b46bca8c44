//! Around every request: an id, one line in the log, and two metrics.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request an id, which is in the span of all that is logged for it and in the answer.
pub(super) async fn trace_request(request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let method = method_name(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request.id = %id, method, route);
    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (elapsed, status) = (start.elapsed(), response.status());
    span.in_scope(|| tracing::debug!(status = status.as_u16(), elapsed_ms = elapsed.as_millis(), "answered"));
    metrics::counter!(crate::metrics::HTTP_REQUESTS,
        "method" => method, "route" => route.clone(), "status" => status.as_u16().to_string())
    .increment(1);
    metrics::histogram!(crate::metrics::HTTP_SECONDS, "method" => method, "route" => route)
        .record(elapsed.as_secs_f64());
    let id = HeaderValue::from_str(&id).expect("hex digits fit into a header");
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

/// A bounded set of names, so that no caller can make new label values.
fn method_name(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "OTHER",
    }
}
