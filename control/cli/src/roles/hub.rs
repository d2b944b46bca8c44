//! `ds hub`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use clap::Args;
use ds_hub::{Hub, HubConfig, HubState, StoreTarget, Unknown};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    StateDir, runtime, start_log,
    store::{self, Keys, StoreThread},
    until_stopped,
};
use crate::{args::Globals, output::Output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds hub --dataset tank/store
  ds hub --dataset tank/store --http 0.0.0.0:7600 --advertise hub.example.org:7601
  ds hub --no-store --store 10.0.0.5:7602 --database postgres://hub@db/hub

The first start makes a user `admin` with a random password in DIR/hub/admin-password. DS_LOG sets what is logged,
such as `info,ds_hub=debug`. With --json, a line on stdout says where the hub listens.")]
pub(crate) struct HubArgs {
    /// The ZFS dataset that is all its store's, such as `tank/store`; made if it is missing. Its pool must be there.
    #[arg(long, value_name = "POOL/NAME", required_unless_present = "no_store")]
    dataset: Option<String>,
    /// Where people and programs connect (HTTP).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7600")]
    http: SocketAddr,
    /// Where runners connect (gRPC over TLS).
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7601")]
    nodes: SocketAddr,
    /// Where links to the store arrive (QUIC over UDP).
    #[arg(long, value_name = "ADDRESS", default_value = store::LISTEN, conflicts_with = "no_store")]
    store_listen: SocketAddr,
    /// The `host:port` of --nodes as runners reach it; goes into registration tokens. Without it: an address of this machine.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The database: `sqlite:FILE` or `postgres://...`. Without it: SQLite in the state's folder.
    #[arg(long, value_name = "URL", env = "DS_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// The image of tasks that name none.
    #[arg(long, value_name = "IMAGE", default_value = "dotstream/task:latest")]
    default_image: String,
    /// Drop nothing at the store that the database does not know; the log names it. For a database that was restored and may
    /// be older than the store.
    #[arg(long)]
    no_collect: bool,
    /// Run no store in this process; `ds store` runs apart.
    #[arg(long, requires = "store", conflicts_with = "dataset")]
    no_store: bool,
    /// Where that store listens.
    #[arg(long, value_name = "ADDRESS", requires = "no_store")]
    store: Option<SocketAddr>,
    #[command(flatten)]
    state: StateDir,
}

/// Where a hub listens, for programs that started it with port 0.
#[derive(Serialize)]
struct Listening {
    http: SocketAddr,
    nodes: SocketAddr,
    store: SocketAddr,
}

pub(crate) fn run(args: &HubArgs, globals: Globals) -> Result<()> {
    start_log()?;
    ds_hub::install_metrics();
    let stop = CancellationToken::new();
    let (target, store) = start_store(args, &stop)?;
    let hub = serve(args, target, globals, &stop);
    stop.cancel();
    let store = store.map_or(Ok(()), StoreThread::join);
    hub.and(store)
}

/// Starts the store in this process, or finds out about the one that runs apart.
fn start_store(args: &HubArgs, stop: &CancellationToken) -> Result<(StoreTarget, Option<StoreThread>)> {
    let folder = args.state.of("store")?;
    let keys = Keys::from_hub(&folder, &HubState::open(&args.state.of("hub")?)?)?;
    let node = keys.node();
    match (&args.dataset, args.store) {
        (Some(dataset), _) => {
            let config = keys.config(folder, args.store_listen, dataset.clone());
            let (thread, address) = StoreThread::start(config, stop)?;
            Ok((StoreTarget { node, address: reachable(address) }, Some(thread)))
        }
        (None, Some(address)) => Ok((StoreTarget { node, address }, None)),
        (None, None) => unreachable!("--dataset or --no-store with --store is required"),
    }
}

fn serve(args: &HubArgs, target: StoreTarget, globals: Globals, stop: &CancellationToken) -> Result<()> {
    let store = target.address;
    let config = HubConfig {
        http: args.http,
        nodes: args.nodes,
        database_url: database(args)?,
        state_dir: args.state.of("hub")?,
        advertise: args.advertise.clone(),
        store: target,
        default_image: args.default_image.clone(),
        unknown: if args.no_collect { Unknown::Keep } else { Unknown::Drop },
    };
    runtime("hub")?.block_on(until_stopped(stop, async {
        let hub = Hub::build(config).await?;
        if globals.json {
            let listening = Listening { http: hub.http_addr(), nodes: hub.nodes_addr(), store };
            Output::detect(true).print(serde_json::to_string(&listening)?)?;
        }
        Ok(hub.run(stop.clone()).await?)
    }))
}

fn database(args: &HubArgs) -> Result<String> {
    match &args.database {
        Some(url) => Ok(url.clone()),
        None => Ok(format!("sqlite:{}", args.state.of("hub")?.join("hub.db").display())),
    }
}

/// The address at which this process reaches what listens on `bound`.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}
