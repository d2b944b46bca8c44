//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use ds_zfs::replication::{Grid, Pattern, Schedule};

use super::place::Place;
use crate::roles::{Metrics, StateDir};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  ds sync tank/photos store:photos                     push to the hub's store
  ds sync store:photos backup/photos                   fetch it on another machine
  ds sync tank/data store:data --to alpha@10.0.0.7:data  to both, and read once
  ds sync tank/data store:data --exclude '**/tmp' --dry-run
  ds sync tank/data store:data --limit '08:00-18:00=50MB/s' --every 1h --keep '24x1h|30x1d' --metrics 127.0.0.1:7609

It needs root, an admin's login (`ds login`, or DS_TOKEN), and a node's identity: that of the runner or store on this
machine, or its own, for which it takes the token of `ds runner create` in DS_RUNNER_TOKEN the first time. Snapshots are
taken by whoever takes them (`zfs snapshot -r`); this brings those that are missing. Stopped or broken off, the same
command goes on.

Exit codes: 0 all is there, 1 nothing could be done, 2 wrong usage, 3 some of it is there and some is not."
)]
pub(crate) struct SyncArgs {
    #[command(subcommand)]
    pub(super) role: Option<SyncRole>,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum SyncRole {
    /// Keep trees that other nodes bring: what `RUNNER@HOST:NAME` names.
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Where from: a dataset of this machine, such as tank/photos; store:NAME at the hub's store; or
    /// RUNNER@HOST[:PORT]:NAME at a node that runs `ds sync serve`.
    #[arg(value_name = "SOURCE", required = true)]
    pub(super) source: Option<Place>,
    /// Where to, in the same way. One of the two is on this machine.
    #[arg(value_name = "TARGET", required = true)]
    pub(super) target: Option<Place>,
    /// A further target of a push. What several lack is read once. May be repeated.
    #[arg(long, value_name = "TARGET")]
    pub(super) to: Vec<Place>,
    /// Only datasets like this, by their paths below the source: `*` within a name, `**` over slashes. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(super) include: Vec<Pattern>,
    /// No datasets like this, whatever else is said. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(super) exclude: Vec<Pattern>,
    /// Only snapshots of names like this. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(super) snapshots: Vec<Pattern>,
    /// No snapshots of names like this. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(super) exclude_snapshots: Vec<Pattern>,
    /// Only each dataset's newest snapshot, not those between it and what is there.
    #[arg(long)]
    pub(super) newest: bool,
    /// Send encrypted datasets decrypted. Without this they stay as they lie on the pool, and the target needs no key.
    #[arg(long)]
    pub(super) decrypt: bool,
    /// What becomes of a copy that went another way. It is never rolled back.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnDivergence::Report)]
    pub(super) on_divergence: OnDivergence,
    /// Datasets like this come first. May be repeated: the first given comes before the second.
    #[arg(long, value_name = "PATTERN")]
    pub(super) first: Vec<Pattern>,
    /// Datasets at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) parallel: u8,
    /// What all streams together may take, by time of day: 500Mbit, or 08:00-18:00=50MB/s,*=unlimited.
    #[arg(long, value_name = "LIMITS", value_parser = limits)]
    pub(super) limit: Option<String>,
    /// Which snapshots the target keeps, such as '1x1h(keep=all)|24x1h|30x1d'. Only what is older than the newest
    /// that both have goes.
    #[arg(long, value_name = "GRID")]
    pub(super) keep: Option<Grid>,
    /// The same for the source of a push.
    #[arg(long, value_name = "GRID")]
    pub(super) keep_source: Option<Grid>,
    /// Say what would be done, and do nothing.
    #[arg(long, short = 'n', conflicts_with = "every")]
    pub(super) dry_run: bool,
    /// Go on for ever: each 15m, 1h or 1d, or at the times of five fields of cron. For a service.
    #[arg(long, value_name = "WHEN")]
    pub(super) every: Option<Schedule>,
    /// The folder of the identity to use. Without it: that of a sync, a runner or a store below the state folder.
    #[arg(long, value_name = "DIR")]
    pub(super) identity: Option<PathBuf>,
    /// The one-time token of `ds runner create`, for a machine that has no identity yet. Better given in the
    /// environment.
    #[arg(long, env = "DS_RUNNER_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    #[command(flatten)]
    pub(super) metrics: Metrics,
    #[command(flatten)]
    pub(super) state: StateDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnDivergence {
    /// It is reported, and stays as it is.
    Report,
    /// It stays, and what the source has comes beside it.
    Beside,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  DS_RUNNER_TOKEN=dsr1... ds sync serve --dataset tank/copies

Others bring trees with `ds sync tank/photos RUNNER@HOST:photos`, for which the hub gives them tickets; each lies below
POOL/NAME/d. Tickets are judged by this machine's clock.")]
pub(super) struct ServeArgs {
    /// The ZFS dataset that is all this node's, such as `tank/copies`; made if it is missing. Its pool must be there.
    #[arg(long, value_name = "POOL/NAME")]
    pub(super) dataset: String,
    /// Where links arrive (UDP).
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7603")]
    pub(super) listen: SocketAddr,
    /// The folder of the identity to use. Without it: that of a sync or a runner below the state folder.
    #[arg(long, value_name = "DIR")]
    pub(super) identity: Option<PathBuf>,
    /// The one-time token of `ds runner create`, for a machine that has no identity yet. Better given in the
    /// environment.
    #[arg(long, env = "DS_RUNNER_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    #[command(flatten)]
    pub(super) metrics: Metrics,
    #[command(flatten)]
    pub(super) state: StateDir,
}

/// Read where it is typed, and again by the clock of each round.
fn limits(text: &str) -> Result<String, ds_zfs::replication::Invalid> {
    text.parse::<ds_zfs::replication::Limits>().map(|_| text.to_owned())
}
