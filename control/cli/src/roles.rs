//! The roles: long-lived parts of a hub's system, each built by a crate of its own.
//!
//! Here is what they share: where their state lies, their log on stderr, and how signals end them. A role prints nothing to
//! stdout, but for `ds hub --json`, which says where it listens.

use std::{convert::Infallible, io::IsTerminal, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub(crate) mod hub;
pub(crate) mod runner;
pub(crate) mod store;

/// Where the state of the roles lies.
#[derive(Debug, Clone, Args)]
pub(crate) struct StateDir {
    /// The folder for the state of all roles on this machine; each has its own in it.
    #[arg(long, value_name = "DIR", env = "DS_STATE_DIR", default_value = "/var/lib/dotstream")]
    state_dir: PathBuf,
}

impl StateDir {
    /// The folder of one role, as an absolute path: what is mounted there is known to others by it.
    pub(crate) fn of(&self, role: &str) -> Result<PathBuf> {
        let path = self.state_dir.join(role);
        std::path::absolute(&path).with_context(|| format!("cannot use {} for state", path.display()))
    }
}

/// Where a role that runs without a hub shows its metrics.
#[derive(Debug, Clone, Args)]
pub(crate) struct Metrics {
    /// Serve Prometheus metrics (HTTP, `/metrics`) there. Without a login: better an address that only this machine
    /// reaches, such as 127.0.0.1:7609.
    #[arg(long = "metrics", value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

impl Metrics {
    /// Begins to count. To be called before the role is built.
    pub(crate) fn install(&self) {
        if self.address.is_some() {
            ds_hub::install_metrics();
        }
    }

    /// Serves for as long as the role works. Ends only if it cannot serve.
    async fn serve(self) -> Result<Infallible> {
        let Some(address) = self.address else { return std::future::pending().await };
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} for metrics"))?;
        tracing::info!(metrics = %listener.local_addr()?, "metrics are served");
        ds_hub::serve_metrics(listener).await.context("cannot serve metrics")?;
        bail!("the server of metrics ended")
    }
}

/// Sends the log to stderr: `info` and above, or what `DS_LOG` says.
fn start_log() -> Result<()> {
    log_from("info")
}

/// The same from another level on.
pub(crate) fn log_from(level: &str) -> Result<()> {
    let filter = match std::env::var("DS_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .with_context(|| format!("DS_LOG is {text:?}: give such as info,ds_hub=debug"))?,
        _ => EnvFilter::new(level),
    };
    let color =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color).init();
    Ok(())
}

/// Threads of a role's own, named after it.
pub(crate) fn runtime(name: &str) -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().enable_all().thread_name(name).build();
    runtime.with_context(|| format!("cannot start the threads of the {name}"))
}

/// Cancels `stop` at SIGINT or SIGTERM; a second one ends the process at once, as a crash would, which every role survives.
async fn stop_at_signal(stop: CancellationToken) -> Result<()> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    tracing::info!("stopping; a second signal ends the process at once");
    stop.cancel();
    next().await;
    std::process::exit(1);
}

/// Runs `work` until it ends or its metrics cannot be served.
pub(crate) async fn with_metrics<T>(metrics: Metrics, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        ended = work => ended,
        failed = metrics.serve() => match failed? {},
    }
}

/// Runs `work` until it ends, with signals cancelling `stop`.
pub(crate) async fn until_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        ended = work => ended,
        signals = stop_at_signal(stop.clone()) => Err(signals.expect_err("it returns only if it cannot listen")),
    }
}
