//! The page at `/`: what this is and where to go on. No script, nothing from elsewhere.

use axum::{
    http::{HeaderName, header},
    response::{Html, IntoResponse},
};

const PAGE: &str = include_str!("front.html");

/// `GET /`.
pub(crate) async fn show_front() -> impl IntoResponse {
    let headers: [(HeaderName, &str); 3] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(PAGE))
}
