//! The control plane: people, projects, tasks, commits and runs, over HTTP for people and over gRPC for nodes.
//!
//! A [`Hub`] is built from a [`HubConfig`] and runs until it is told to stop. It deliberately holds no byte of
//! data and knows no ZFS and no Docker: volumes are the store's, which it asks over a link, and containers are
//! the runners', which it tells what to do over the stream that each of them keeps open. It keeps no
//! authoritative state in memory: what has to survive is in the database ([`ds_db`]) or at the store, so that
//! it can be killed at any point, and several of them can serve one PostgreSQL.
//!
//! Start reading at `hub` (how it is put together), then `http` (the API, one file per noun), `nodes` (the
//! runners' streams) and `finish` (the transaction that everything else leads up to). Who may do what is
//! decided in `access`.

mod access;
mod address;
mod advance;
mod auth;
mod bootstrap;
mod clock;
mod collect;
mod compare;
mod config;
mod core;
mod datasets;
mod error;
mod events;
mod finish;
mod http;
mod hub;
mod inputs;
mod metrics;
mod nodes;
mod progress;
mod runs;
mod scheduler;
mod state;
mod store_clock;
mod tasks;
mod workspace;

pub use config::{HubConfig, StoreTarget, Unknown};
pub use error::Error;
pub use hub::Hub;
pub use metrics::{install_metrics, serve_metrics};
pub use state::HubState;

/// The machine-readable description of the HTTP API, as committed in `control/hub/openapi.json`.
pub fn openapi() -> String {
    http::openapi()
}
