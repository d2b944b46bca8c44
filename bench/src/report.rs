//! The one form of a benchmark's result: a table for people, JSON for programs.

use std::{fmt::Write as _, process::Command};

use serde::Serialize;

/// What one benchmark found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Its name at the command line.
    pub(crate) bench: &'static str,
    /// CPU model, cores and kernel.
    pub(crate) machine: String,
    /// The source that was measured.
    pub(crate) commit: String,
    /// One row a claim.
    pub(crate) results: Vec<Measurement>,
}

/// One row.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement {
    /// What was measured.
    pub(crate) name: String,
    /// The figure: a median unless the name says otherwise.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it is compared with, in the same run.
    pub(crate) peer: Option<String>,
    /// The peer's figure.
    pub(crate) peer_value: Option<f64>,
    /// `value / peer_value`.
    pub(crate) ratio: Option<f64>,
    /// What is wanted of the ratio, or of the value where there is no peer.
    pub(crate) goal: Option<f64>,
    /// Which direction is better.
    pub(crate) better: Better,
    /// How many times it was measured.
    pub(crate) runs: usize,
}

/// Which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

impl Measurement {
    /// A figure of its own, without a peer.
    pub(crate) fn alone(name: impl Into<String>, value: f64, unit: &'static str, better: Better) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            peer: None,
            peer_value: None,
            ratio: None,
            goal: None,
            better,
            runs: 1,
        }
    }

    /// Beside a peer's figure.
    pub(crate) fn beside(mut self, peer: impl Into<String>, peer_value: f64) -> Self {
        self.peer = Some(peer.into());
        self.peer_value = Some(peer_value);
        self.ratio = Some(self.value / peer_value);
        self
    }

    /// What is wanted of the ratio, or of the value where there is no peer.
    pub(crate) fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    /// How many times it was measured.
    pub(crate) fn runs(mut self, runs: usize) -> Self {
        self.runs = runs;
        self
    }

    fn met(&self) -> Option<bool> {
        let measured = self.ratio.unwrap_or(self.value);
        self.goal.map(|goal| match self.better {
            Better::Higher => measured >= goal,
            Better::Lower => measured <= goal,
        })
    }
}

impl Report {
    /// A report on this machine and source.
    pub(crate) fn new(bench: &'static str, results: Vec<Measurement>) -> Self {
        Self { bench, machine: machine(), commit: commit(), results }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{} on {}, commit {}\n", self.bench, self.machine, self.commit);
        for m in &self.results {
            let _ = write!(text, "  {:<58} {:>12.3} {:<8}", m.name, m.value, m.unit);
            if let (Some(peer), Some(value), Some(ratio)) = (&m.peer, m.peer_value, m.ratio) {
                let _ = write!(text, " {peer} {value:.3}, ratio {ratio:.2}");
            }
            if let (Some(goal), Some(met)) = (m.goal, m.met()) {
                let at = if m.better == Better::Higher { "at least" } else { "at most" };
                let _ = write!(text, " (goal {at} {goal}: {})", if met { "met" } else { "MISSED" });
            }
            let _ = writeln!(text, " n={}", m.runs);
        }
        text
    }
}

/// The value at `share` (0 to 1) of the sorted values.
///
/// # Panics
/// If there are none.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let index = ((values.len() - 1) as f64 * share).ceil() as usize;
    values[index]
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("\t: unknown CPU");
    let model = model.trim_start_matches(['\t', ' ', ':']).to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

fn commit() -> String {
    Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values = [3.0, 1.0, 2.0, 4.0];
        assert!((quantile(&mut values, 0.0) - 1.0).abs() < f64::EPSILON);
        assert!((quantile(&mut values, 0.99) - 4.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_goal_is_about_the_ratio_where_there_is_a_peer() {
        let m = Measurement::alone("x", 3.0, "s", Better::Lower).goal(1.3);
        assert_eq!(m.met(), Some(false));
        assert_eq!(m.beside("y", 2.5).met(), Some(true));
    }
}
