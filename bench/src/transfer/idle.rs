//! What a runner that is connected and does nothing costs its store.
//!
//! The store is a process of its own. Its memory is read with few links and again with many: the difference leaves out what
//! it needs for the first.

use std::{
    fs::File,
    future,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;
use ds_domain::ids::NodeId;
use ds_link::Endpoint;
use tokio::task::JoinSet;

use super::{
    kit::Kit,
    network::{End, Network},
    ours::load,
    payload::wide_pipe,
    process::{Process, own_program},
};
use crate::report::{Better, Measurement};

const LINKS: u32 = 500;
/// Enough for all that is made once, at the first link.
const FIRST_LINKS: u32 = 8;
/// Longer than links keep what only their beginning needs; they have sent their first signs of life by then.
const SETTLE: Duration = Duration::from_secs(6);
/// What the clients print.
const LINKED: &str = "linked";

/// Holds all links that arrive, until it is killed.
#[derive(Debug, Args)]
pub(crate) struct Store {
    /// Where to listen.
    #[arg(long)]
    port: u16,
    /// The folder of its identity.
    #[arg(long)]
    identity: PathBuf,
}

/// Opens links and holds them, until it is killed.
#[derive(Debug, Args)]
pub(crate) struct Runners {
    /// The store.
    #[arg(long)]
    to: SocketAddr,
    /// The store's id.
    #[arg(long)]
    node: NodeId,
    /// The folder of their identity.
    #[arg(long)]
    identity: PathBuf,
    /// How many.
    #[arg(long)]
    links: u32,
}

pub(crate) fn measure(kit: &Kit, network: &Network) -> Result<Measurement> {
    let port = kit.next_port();
    let mut command = network.command(End::Receiver, own_program());
    command.args(["transfer-idle-store", "--port", &port.to_string(), "--identity"]);
    command.arg(kit.receiver_identity());
    let mut store = Process::start("the store", command)?;
    store.listening(port)?;
    let few = link(kit, network, port, FIRST_LINKS)?;
    let before = settled_bytes(&store)?;
    let many = link(kit, network, port, LINKS)?;
    let grown = settled_bytes(&store)?.saturating_sub(before);
    drop((few, many));
    let kilobytes = grown as f64 / 1e3 / f64::from(LINKS);
    let name = "memory of an idle link at the store";
    Ok(Measurement::alone(name, kilobytes, "kB", Better::Lower).goal(100.0))
}

/// A process that holds `links` links to the store.
fn link(kit: &Kit, network: &Network, port: u16, links: u32) -> Result<Process> {
    let to = SocketAddr::new(network.receiver_address(), port).to_string();
    let (read, write) = wide_pipe()?;
    let mut command = network.command(End::Sender, own_program());
    command
        .args(["transfer-idle-runners", "--to", &to, "--node", &kit.store().to_string()])
        .args(["--links", &links.to_string(), "--identity"])
        .arg(kit.sender_identity())
        .stdout(write);
    let runners = Process::start("the runners", command)?;
    let mut said = String::new();
    BufReader::new(File::from(read)).read_line(&mut said)?;
    ensure!(said.trim_end() == LINKED, "{links} links could not be opened");
    Ok(runners)
}

fn settled_bytes(store: &Process) -> Result<u64> {
    thread::sleep(SETTLE);
    store.resident_bytes()
}

impl Store {
    /// Never returns, unless it cannot listen.
    pub(crate) async fn run(self) -> Result<()> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        let endpoint = Endpoint::bind(any, &load(&self.identity)?)?;
        let mut links = JoinSet::new();
        while let Some(arriving) = endpoint.accept().await {
            links.spawn(async {
                let link = arriving.link().await?;
                anyhow::Ok(link.closed().await)
            });
        }
        Ok(())
    }
}

impl Runners {
    /// Never returns, unless a link cannot be opened.
    pub(crate) async fn run(self) -> Result<()> {
        let endpoint = Endpoint::client(&load(&self.identity)?)?;
        let mut links = Vec::new();
        for _ in 0..self.links {
            links.push(endpoint.connect(self.to, self.node).await?);
        }
        println!("{LINKED}");
        future::pending().await
    }
}
