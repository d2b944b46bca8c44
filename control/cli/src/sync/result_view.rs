//! What became of a round, shown.

use anyhow::Result;
use ds_transfer::tree::{DatasetReport, Report};
use serde::Serialize;

use crate::output::{Output, text};

#[derive(Serialize)]
struct Round<'a> {
    targets: Vec<Target<'a>>,
    /// Snapshots that the grids let go.
    destroyed: u64,
    elapsed_ms: i64,
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(rename = "target")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    snapshots: u64,
    bytes: u64,
    /// Datasets that have no snapshot to bring.
    without_snapshot: u64,
    datasets: Vec<Dataset<'a>>,
}

#[derive(Serialize)]
struct Dataset<'a> {
    path: &'a str,
    snapshots: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Prints a report: failures on stderr, and what is there now on stdout.
pub(super) fn print(out: &Output, report: &Report, elapsed_ms: i64) -> Result<()> {
    let targets: Vec<Target> = report
        .targets
        .iter()
        .map(|target| Target {
            name: &target.target,
            error: target.error.as_deref(),
            snapshots: target.datasets.iter().map(|dataset| dataset.snapshots).sum(),
            bytes: target.datasets.iter().map(|dataset| dataset.bytes).sum(),
            without_snapshot: target.without_snapshot,
            datasets: target.datasets.iter().map(dataset).collect(),
        })
        .collect();
    let round = Round { targets, destroyed: report.destroyed, elapsed_ms };
    for target in &round.targets {
        if let Some(error) = target.error {
            out.warn(format_args!("{}: {error}", target.name));
        }
        for dataset in &target.datasets {
            if let Some(error) = dataset.error {
                let path = if dataset.path.is_empty() { "(root)" } else { dataset.path };
                out.warn(format_args!("{}: {path}: {error}", target.name));
            }
        }
    }
    if out.json {
        // A line for each round.
        return out.print(serde_json::to_string(&round)?);
    }
    for target in &round.targets {
        out.print(summary(target, elapsed_ms))?;
    }
    if round.destroyed > 0 {
        out.print(format_args!("{} let go", text::count(round.destroyed, "old snapshot")))?;
    }
    Ok(())
}

fn summary(target: &Target<'_>, elapsed_ms: i64) -> String {
    let failed = target.datasets.iter().filter(|dataset| dataset.error.is_some()).count();
    let there = target.datasets.len() - failed;
    let mut parts = vec![format!("{}: {} up to date", target.name, text::count(there as u64, "dataset"))];
    if failed > 0 {
        parts.push(format!("{failed} not"));
    }
    if target.without_snapshot > 0 {
        parts.push(format!("{} of them without a snapshot", target.without_snapshot));
    }
    if target.snapshots > 0 {
        let elapsed = u64::try_from(elapsed_ms).unwrap_or(0).max(1);
        let rate = text::size(target.bytes.saturating_mul(1000) / elapsed);
        let (snapshots, bytes) = (text::count(target.snapshots, "snapshot"), text::size(target.bytes));
        parts.push(format!("{snapshots} came, {bytes} in {} ({rate}/s)", text::span(elapsed_ms)));
    }
    parts.join(", ")
}

fn dataset(dataset: &DatasetReport) -> Dataset<'_> {
    Dataset {
        path: &dataset.path,
        snapshots: dataset.snapshots,
        bytes: dataset.bytes,
        error: dataset.error.as_deref(),
    }
}
