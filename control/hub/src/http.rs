//! The HTTP API, as people and programs see it: one file per noun.
//!
//! Handlers take a request apart, check rights through [`crate::access`], and leave the work to the services
//! beside this module. Start reading at [`router`].

mod caller;
mod commits;
mod datasets;
mod events;
mod front;
mod health;
mod keys;
mod login;
mod logs;
mod members;
mod page;
mod problem;
mod projects;
mod request;
mod run_query;
mod runners;
mod runs;
mod tasks;
mod trace;
mod trees;
mod upload;
mod users;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header},
    middleware,
    response::IntoResponse,
    routing::get,
};
use ds_domain::api::{FileEntry, FileKind};
use ds_proto::v1;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use problem::Problem;

use crate::core::Core;

/// The largest JSON body: a thousand runs with their values.
const JSON_BYTES: usize = 16 * 1024 * 1024;

#[derive(OpenApi)]
#[openapi(
    info(title = "Dotstream hub", description = "Runs, their data and their models, kept together.",
        license(name = "Apache-2.0")),
    security(("token" = []), ("key" = [])),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let token = Http::builder()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A session's token or an API key"))
            .build();
        let key = Http::builder()
            .scheme(HttpAuthScheme::Basic)
            .description(Some("User name, and an API key as the password"))
            .build();
        components.add_security_scheme("token", SecurityScheme::Http(token));
        components.add_security_scheme("key", SecurityScheme::Http(key));
    }
}

fn described() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(health::routes())
        .merge(login::routes())
        .merge(keys::routes())
        .merge(users::routes())
        .merge(projects::routes())
        .merge(members::routes())
        .merge(tasks::routes())
        .merge(logs::routes())
        .merge(runs::routes())
        .merge(commits::routes())
        .merge(upload::routes())
        .merge(datasets::routes())
        .merge(runners::routes())
        .merge(trees::routes())
        .merge(events::routes())
}

/// The API's description, as committed in `openapi.json`.
pub(crate) fn openapi() -> String {
    let (_, document) = described().split_for_parts();
    let mut text = document.to_pretty_json().expect("the document serializes");
    text.push('\n');
    text
}

/// Everything that the hub answers over HTTP.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let (router, _) = described().split_for_parts();
    let document: Arc<str> = openapi().into();
    let show_document = move || async move {
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], document.to_string()).into_response()
    };
    router
        .route("/", get(front::show_front))
        .route("/api/v1/openapi.json", get(show_document))
        .fallback(|| async { Problem::no_route() })
        .method_not_allowed_fallback(|| async { Problem::wrong_method() })
        .layer(DefaultBodyLimit::max(JSON_BYTES))
        .layer(middleware::from_fn(trace::trace_request))
        .with_state(core)
}

/// Refuses names that could not stand in an address or on a command line.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let dots = name.chars().all(|c| c == '.');
    if (1..=100).contains(&name.len()) && name.chars().all(fits) && !dots && !name.starts_with('-') {
        return Ok(());
    }
    Err(Problem::invalid(format!(
        "{name:?} cannot be the name of a {what}: it takes 1 to 100 letters, digits, `-`, `_` or `.`, \
         not a `-` at its start, and not dots alone"
    )))
}

fn file_entry(entry: v1::FileEntry) -> FileEntry {
    let kind = match entry.kind() {
        v1::FileKind::File => FileKind::File,
        v1::FileKind::Folder => FileKind::Folder,
        v1::FileKind::Link => FileKind::Link,
        v1::FileKind::Other | v1::FileKind::Unspecified => FileKind::Other,
    };
    FileEntry { path: entry.path, kind, size_bytes: entry.size_bytes, modified_ms: entry.modified_ms }
}
