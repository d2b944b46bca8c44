//! Moving bytes between two ends: ours against the programs that people use for it.
//!
//! Every round runs each contender once, so that what else the machine does meets all of them; the figures are medians of
//! the rounds. Start reading at `peers.rs`; `process.rs` is how they are measured, `network.rs` where they run.

mod emulator;
pub(crate) mod idle;
mod kit;
mod line;
mod network;
pub(crate) mod ours;
pub(crate) mod payload;
mod peers;
mod pools;
mod process;
pub(crate) mod wan;

use anyhow::Result;
use ds_link::{Transport, Transports};

use self::{
    kit::Kit,
    network::Network,
    payload::Source,
    peers::{Figures, Ground, OURS, Peer},
};
use crate::{
    Scale,
    report::{Better, Measurement, Report, quantile},
};

/// What each end may need at its peak.
const MEMORY_GOAL_MEBIBYTES: f64 = 256.0;

/// One way over one network, and what its runs found.
struct Contender<'a> {
    peer: Peer,
    network: &'a Network,
    runs: Vec<Figures>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// From pipe to pipe, beside all peers.
    Pipes,
    /// From pool to pool.
    Pools,
    /// What links cost that carry nothing.
    Idle,
}

pub(crate) fn measure(scale: Scale, only: Option<Part>) -> Result<Report> {
    let ground = Ground { kit: Kit::make()?, source: Source::random()? };
    let loopback = Network::loopback()?;
    let wanted = |part| only.is_none_or(|only| only == part);
    let mut results = Vec::new();
    if wanted(Part::Pipes) {
        results.extend(pipes(&ground, &loopback, scale)?);
    }
    if wanted(Part::Pools) {
        results.push(pools::measure(&ground, &loopback, scale)?);
    }
    if wanted(Part::Idle) {
        results.push(idle::measure(&ground.kit, &loopback)?);
    }
    Ok(Report::new("transfer", results))
}

fn pipes(ground: &Ground, loopback: &Network, scale: Scale) -> Result<Vec<Measurement>> {
    let (bytes, rounds) = match scale {
        Scale::Full => (4 << 30, 5),
        Scale::Quick => (512 << 20, 2),
    };
    let cable = Network::cable(1500)?;
    let ours = |transport| Peer::Ours(Transports::Only(transport));
    let peers = [
        OURS,
        ours(Transport::Quic),
        ours(Transport::Tcp),
        Peer::Ssh,
        Peer::SocatTls,
        Peer::Mbuffer,
        Peer::SocatTcp,
    ];
    let mut contenders: Vec<_> = [&cable, loopback]
        .into_iter()
        .flat_map(|network| peers.map(|peer| Contender { peer, network, runs: Vec::new() }))
        .collect();
    for _ in 0..rounds {
        for contender in &mut contenders {
            contender.runs.push(contender.peer.run(ground, contender.network, bytes)?);
        }
    }
    let mut results: Vec<_> = contenders.iter().flat_map(Contender::rows).collect();
    results.extend(comparisons(&contenders));
    Ok(results)
}

impl Contender<'_> {
    fn median(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        quantile(&mut self.runs.iter().map(figure).collect::<Vec<_>>(), 0.5)
    }

    fn throughput(&self) -> f64 {
        self.median(|f| f.megabytes_per_second)
    }

    fn cpu(&self) -> f64 {
        self.median(|f| f.cpu_seconds_per_gigabyte)
    }

    fn peak_mebibytes(&self, end: usize) -> f64 {
        self.median(|f| f.peak_bytes[end] as f64) / f64::from(1 << 20)
    }

    fn is(&self, peer: Peer, network: &str) -> bool {
        self.peer == peer && self.network.name() == network
    }

    fn name(&self) -> String {
        format!("{}, {}", self.peer.name(), self.network.name())
    }

    fn rows(&self) -> [Measurement; 4] {
        let row = |what, value, unit, better| {
            Measurement::alone(format!("{}: {what}", self.name()), value, unit, better).runs(self.runs.len())
        };
        let peak = |what, end| {
            let row = row(what, self.peak_mebibytes(end), "MiB", Better::Lower);
            if self.peer == OURS { row.goal(MEMORY_GOAL_MEBIBYTES) } else { row }
        };
        [
            row("throughput", self.throughput(), "MB/s", Better::Higher),
            row("CPU, both ends", self.cpu(), "s/GB", Better::Lower),
            peak("sender's peak memory", 0),
            peak("receiver's peak memory", 1),
        ]
    }
}

/// Ours beside its peers, with what is wanted.
fn comparisons(contenders: &[Contender<'_>]) -> Vec<Measurement> {
    let find = |peer, network: &str| {
        contenders.iter().find(|c| c.is(peer, network)).expect("every peer runs on every network")
    };
    let throughput = |network, peer, goal| {
        let (ours, other) = (find(OURS, network), find(peer, network));
        Measurement::alone(
            format!("{}, against {}", ours.name(), peer.name()),
            ours.throughput(),
            "MB/s",
            Better::Higher,
        )
        .beside(other.name(), other.throughput())
        .goal(goal)
        .runs(ours.runs.len())
    };
    let (ours, ssh) = (find(OURS, "MTU 1500"), find(Peer::Ssh, "MTU 1500"));
    vec![
        throughput("MTU 1500", Peer::Ssh, 2.2),
        throughput("MTU 1500", Peer::SocatTls, 1.5),
        throughput("loopback", Peer::Mbuffer, 1.0),
        Measurement::alone(format!("{}, CPU against ssh", ours.name()), ours.cpu(), "s/GB", Better::Lower)
            .beside(ssh.name(), ssh.cpu())
            .goal(0.5)
            .runs(ours.runs.len()),
    ]
}
