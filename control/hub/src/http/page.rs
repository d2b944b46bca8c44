//! Pages of a list.

use serde::Deserialize;
use utoipa::IntoParams;

/// Items of a page where the caller does not say.
const DEFAULT_LIMIT: u32 = 100;
/// The most items of a page.
pub(super) const MAX_LIMIT: u32 = 1000;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// Items a page: 1 to 1,000, else 100.
    limit: Option<u32>,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
}

impl PageParams {
    pub(super) fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }
}
