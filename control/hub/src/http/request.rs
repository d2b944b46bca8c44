//! What handlers take out of a request; a request that does not fit is answered with a [`Problem`].

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query},
};

use super::problem::Problem;

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(Problem))]
pub(crate) struct JsonBody<T>(pub(crate) T);

/// The variable parts of the address.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(Problem))]
pub(crate) struct InPath<T>(pub(crate) T);

/// What follows the question mark.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
pub(crate) struct InQuery<T>(pub(crate) T);
