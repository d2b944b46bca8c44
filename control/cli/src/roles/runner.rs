//! `ds runner run`.

use std::num::NonZeroUsize;

use anyhow::Result;
use clap::Args;
use ds_link::Transports;
use ds_runner::{Runner, RunnerConfig};
use tokio_util::sync::CancellationToken;

use super::{Metrics, StateDir, runtime, start_log, until_stopped, with_metrics};
use crate::args::values;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  DS_RUNNER_TOKEN=dsr1... ds runner run --dataset tank/runner
  ds runner run --dataset tank/runner --slots 4 --label gpu=a100

The token of `ds runner create` is needed the first time only. The runner dials out to its hub and needs no open port.
It needs root, Docker and ZFS. Stopping it stops no task: start it again, and it goes on with them.")]
pub(crate) struct RunnerArgs {
    /// The ZFS dataset that is all this runner's, such as `tank/runner`; made if it is missing. Its pool must be there.
    #[arg(long, value_name = "POOL/NAME")]
    dataset: String,
    /// The one-time token of `ds runner create`. Better given in the environment, where others do not see it.
    #[arg(long, env = "DS_RUNNER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Tasks that it executes at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slots: u32,
    /// A label that tasks can ask for. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::key_value)]
    labels: Vec<(String, String)>,
    /// Where the Docker daemon listens, such as `unix:///var/run/docker.sock`. Without it: `DOCKER_HOST`, or the usual socket.
    #[arg(long, value_name = "ADDRESS")]
    docker_host: Option<String>,
    /// What data goes over: `quic` (UDP), `tcp`, or `auto` for whichever gets through and moves more.
    #[arg(long, value_name = "HOW", env = "DS_TRANSPORT", default_value_t)]
    transport: Transports,
    /// Connections that one transfer may use at most. Without it, as many as make it faster.
    #[arg(long, value_name = "N")]
    lanes: Option<NonZeroUsize>,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    state: StateDir,
}

pub(crate) fn run(args: RunnerArgs) -> Result<()> {
    start_log()?;
    let state_dir = args.state.of("runner")?;
    let config = RunnerConfig {
        mount_dir: state_dir.join("mnt"),
        state_dir,
        token: args.token.filter(|token| !token.is_empty()),
        root: args.dataset,
        slots: args.slots,
        labels: args.labels.into_iter().collect(),
        docker_host: args.docker_host,
        transports: args.transport,
        most_lanes: args.lanes,
    };
    let stop = CancellationToken::new();
    args.metrics.install();
    let work = async {
        let runner = Runner::build(config).await?;
        Ok(runner.run(stop.clone()).await?)
    };
    runtime("runner")?.block_on(until_stopped(&stop, with_metrics(args.metrics, work)))
}
