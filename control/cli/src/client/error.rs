//! What can go wrong between this program and the hub, in words that say what to do.

use reqwest::{StatusCode, Url};

use super::VERSION;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing answers.
    #[error(
        "no answer from the hub at {url}: {why}. Is `ds hub` running there? For another hub use `ds set server-url URL` or DS_URL"
    )]
    Unreachable { url: String, why: String },
    /// The answer stopped half-way.
    #[error("the connection to the hub at {url} broke: {why}. Try the command again")]
    Broken { url: String, why: String },
    /// There is no login.
    #[error("not logged in to {url}: run `ds login USERNAME`, or set DS_TOKEN to an API key")]
    NotLoggedIn { url: String },
    /// There is a login, and the hub does not take it.
    #[error(
        "the hub at {url} does not accept this login (any more): run `ds login USERNAME`, or check DS_TOKEN and DOTSCIENCE_PASSWORD"
    )]
    LoginRefused { url: String },
    /// The hub said no; its words.
    #[error("{message}")]
    Refused { status: StatusCode, code: String, message: String },
    /// Something answered that does not speak this API.
    #[error("{url} answered {status}, which this ds {VERSION} does not understand: {advice}")]
    Misunderstood { url: String, status: StatusCode, advice: String },
}

impl Error {
    /// Whether the same request may succeed later: the hub is away, restarts, or is overloaded.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } | Self::Misunderstood { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::NotLoggedIn { .. } | Self::LoginRefused { .. } => false,
        }
    }

    /// What happened, without the advice.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Unreachable { why, .. } | Self::Broken { why, .. } => why.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the hub has no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// From an error of reqwest before the answer's first byte.
    pub(crate) fn sending(url: &Url, error: &reqwest::Error) -> Self {
        let (url, why) = (shown(url), root_cause(error));
        if error.is_connect() || error.is_timeout() {
            Self::Unreachable { url, why }
        } else {
            Self::Broken { url, why }
        }
    }

    /// From an error of reqwest within an answer.
    pub(crate) fn receiving(url: &Url, error: &reqwest::Error) -> Self {
        Self::Broken { url: shown(url), why: root_cause(error) }
    }
}

/// The innermost error: the layers above it say only that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A hub's URL as people write it.
pub(crate) fn shown(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
