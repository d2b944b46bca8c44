//! What the HTTP API takes and gives, shared by the hub that serves it and the programs that call it.
//!
//! Times are Unix milliseconds by the hub's clock, unless a field says otherwise. Lists are pages: `items` and, where there
//! is more, `next`, to be passed as `?cursor=`.

mod commits;
mod datasets;
mod hub;
mod people;
mod projects;
mod runners;
mod runs;
mod tasks;
mod trees;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use commits::*;
pub use datasets::*;
pub use hub::*;
pub use people::*;
pub use projects::*;
pub use runners::*;
pub use runs::*;
pub use tasks::*;
pub use trees::*;

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable word for programs: `not_found`, `forbidden`, `conflict`, ...
    pub code: String,
    /// For people: what failed, why, and what to do.
    pub message: String,
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// This page's items.
    pub items: Vec<T>,
    /// Where the next page starts; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
