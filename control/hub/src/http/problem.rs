//! What goes wrong in a request, as the caller sees it.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use ds_domain::api::ErrorBody;

/// An answer that is not 2xx: a status, a stable word for programs, and a text that says what failed, why and
/// what to do.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// `what` is not there, or not for this user: the two look the same on purpose.
    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("{what} was not found, or you have no access to it"),
        )
    }

    pub(crate) fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "no such address: the API is described at /api/v1/openapi.json",
        )
    }

    pub(crate) fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this address does not take this method: the API is described at /api/v1/openapi.json",
        )
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", message)
    }

    pub(crate) fn full(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "store_full", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(crate) fn store_is_away() -> Self {
        Self::unavailable(
            "the hub cannot reach its store, which holds all files: try again in a moment; /readyz says more",
        )
    }

    /// A fault of the hub's own. The words go to the log under the request's id, not to the caller.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %crate::error::chain(error), "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the hub failed to do this; its log says why, under the id in this answer's x-request-id header",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.to_owned(), message: self.message };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"dotstream\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "the request's body is larger than this address takes",
            ),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid",
                "the body has to be JSON, with the header content-type: application/json",
            ),
            _ => Self::invalid(rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<ds_db::Error> for Problem {
    fn from(error: ds_db::Error) -> Self {
        match error {
            ds_db::Error::NotFound { what, id } => Self::not_found(format_args!("{what} {id:?}")),
            ds_db::Error::Conflict(message) => Self::conflict(message),
            ds_db::Error::Ambiguous { .. } => Self::new(StatusCode::CONFLICT, "ambiguous", error.to_string()),
            ds_db::Error::Invalid(message) => Self::invalid(message),
            ds_db::Error::LogGap { .. } => Self::conflict(error.to_string()),
            error if error.is_retryable() => {
                tracing::warn!(error = %crate::error::chain(&error), "the database is busy");
                Self::unavailable("the hub's database is busy or out of reach: try again in a moment")
            }
            error => Self::internal(&error),
        }
    }
}

impl From<ds_transfer::Error> for Problem {
    fn from(error: ds_transfer::Error) -> Self {
        use ds_transfer::{Error, ErrorKind, RequestErrorKind};
        match (&error, error.kind()) {
            (Error::Request { kind: RequestErrorKind::NotFound, message }, _) => {
                Self::new(StatusCode::NOT_FOUND, "not_found", message.clone())
            }
            (Error::Request { kind: RequestErrorKind::Invalid, message }, _) => {
                Self::invalid(message.clone())
            }
            (_, ErrorKind::Full) => Self::full(
                "the store's pool is full: make room at the store, or ask the one who runs it, and try again",
            ),
            (_, ErrorKind::Link | ErrorKind::Busy) => {
                tracing::warn!(error = %crate::error::chain(&error), "the store is out of reach");
                Self::store_is_away()
            }
            _ => Self::internal(&error),
        }
    }
}
