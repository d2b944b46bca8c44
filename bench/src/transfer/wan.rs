//! The peers over long, lossy lines: which share of the line they reach.
//!
//! A slow peer would need hours for what a fast one moves in seconds, so each has the same time, from its first byte on.

use std::time::Duration;

use anyhow::Result;
use ds_link::Transport;

use super::{
    emulator::{Emulated, ceiling},
    kit::Kit,
    line::Profile,
    network::Congestion,
    payload::Source,
    peers::{Ground, OURS, Peer},
};
use crate::{
    Scale,
    report::{Better, Measurement, Report, quantile},
};

const GIGABIT: u64 = 1_000_000_000;
/// For machines whose cores are too slow for an emulated gigabit and both ends beside it.
const SLOWER: u64 = 400_000_000;
/// How far the emulator's ceiling must be above the line.
const HEADROOM: f64 = 2.0;

/// Who crosses the line, and how their TCP finds its rate.
const CONTENDERS: [(Peer, Congestion); 5] = [
    (OURS, Congestion::Cubic),
    (Peer::OneLane(Transport::Quic), Congestion::Cubic),
    (Peer::Ssh, Congestion::Cubic),
    (Peer::Mbuffer, Congestion::Cubic),
    (Peer::Mbuffer, Congestion::Bbr),
];

/// A line, and which share of it ours has to reach.
struct Distance {
    profile: Profile,
    goal: f64,
}

pub(crate) fn measure(scale: Scale) -> Result<Report> {
    let (seconds, rounds) = match scale {
        Scale::Full => (20, 5),
        // Long enough for all to find their rate.
        Scale::Quick => (12, 1),
    };
    let ground = Ground { kit: Kit::make()?, source: Source::random()? };
    let ceiling = ceiling()?;
    let rate = if ceiling >= HEADROOM * GIGABIT as f64 { GIGABIT } else { SLOWER };
    let line = |milliseconds, loss| Profile::long(rate, Duration::from_millis(milliseconds), loss);
    let distances =
        [Distance { profile: line(100, 0.001), goal: 0.9 }, Distance { profile: line(200, 0.02), goal: 0.8 }];
    let mut results =
        vec![Measurement::alone("emulator's own ceiling", ceiling / 1e6, "Mbit/s", Better::Higher)];
    for distance in &distances {
        let mut speeds = CONTENDERS.map(|_| Vec::new());
        for _ in 0..rounds {
            for ((peer, congestion), speeds) in CONTENDERS.into_iter().zip(&mut speeds) {
                let line = Emulated::open(distance.name(), distance.profile, congestion)?;
                speeds.push(peer.speed(&ground, line.network(), seconds)? * 8.0);
            }
        }
        let rows = CONTENDERS.into_iter().zip(speeds);
        results.extend(rows.map(|((peer, congestion), mut speeds)| {
            let row = distance.row(peer, congestion, quantile(&mut speeds, 0.5), ceiling).runs(rounds);
            if peer == OURS { row.goal(distance.goal) } else { row }
        }));
    }
    Ok(Report::new("transfer --wan", results))
}

impl Distance {
    fn name(&self) -> String {
        let Profile { bits_per_second, round_trip, loss, .. } = self.profile;
        let (megabits, percent) = (bits_per_second / 1_000_000, loss * 100.0);
        format!("{megabits} Mbit/s, {} ms, {percent} % loss", round_trip.as_millis())
    }

    /// A speed of `megabits` a second beside the line's own.
    fn row(&self, peer: Peer, congestion: Congestion, megabits: f64, ceiling: f64) -> Measurement {
        let is_ours = matches!(peer, Peer::Ours(_) | Peer::OneLane(_));
        let how = if is_ours { String::new() } else { format!(" ({})", congestion.name()) };
        let name = format!("{}{how}, {}", peer.name(), self.name());
        let line = self.profile.bits_per_second as f64 / 1e6;
        Measurement::alone(name, megabits, "Mbit/s", Better::Higher)
            .beside(format!("line (emulator's ceiling {:.0})", ceiling / 1e6), line)
    }
}
