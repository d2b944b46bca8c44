//! Every speed claim of the project, measured on the machine at hand.
//!
//! One subcommand a claim; each prints a table and, with `--json FILE`, the same as JSON ([`report::Report`]). Build `ds` in
//! release first: the real program is measured, over its real interfaces. Start reading at `report.rs`, then a benchmark.

mod api;
mod commit;
mod control;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Dotstream.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// Write the results as JSON to this file as well.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Smaller sizes and fewer repetitions: ends within 50 s.
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The hub: idle memory, a page out of 100,000 runs, runs recorded per second.
    Control,
    /// From a container's exit to its run being visible, for a small change in a small and in a large workspace.
    Commit,
}

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Full,
    Quick,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = match arguments.bench {
        Bench::Control => runtime.block_on(control::measure(scale))?,
        Bench::Commit => runtime.block_on(commit::measure(scale))?,
    };
    print!("{}", report.table());
    if let Some(file) = arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}
