//! Every speed claim of the project, measured on the machine at hand.
//!
//! One subcommand a claim; each prints a table and, with `--json FILE`, the same as JSON ([`report::Report`]). The real program
//! is measured, over its real interfaces, so `ds` is built first. Start reading at `report.rs`, then a benchmark.

mod api;
mod commit;
mod control;
mod report;
mod transfer;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use self::report::Report;

/// Measures Dotstream.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// Write the results as JSON to this file as well.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Smaller sizes and fewer repetitions: ends within 50 s, `transfer --wan` within three minutes.
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The hub: idle memory, a page out of 100,000 runs, runs recorded per second.
    Control,
    /// From a container's exit to its run being visible, for a small change in a small and in a large workspace.
    Commit,
    /// Moving bytes between two ends, against ssh, socat and mbuffer.
    Transfer {
        /// Over emulated long lines that lose packets.
        #[arg(long)]
        wan: bool,
        /// One part of it instead of all.
        #[arg(long, value_enum, conflicts_with = "wan")]
        part: Option<transfer::Part>,
    },
    /// The sending end of `transfer`.
    #[command(hide = true)]
    TransferSend(transfer::ours::Send),
    /// The receiving end of `transfer`.
    #[command(hide = true)]
    TransferReceive(transfer::ours::Receive),
    /// A store for `transfer` that only holds links.
    #[command(hide = true)]
    TransferIdleStore(transfer::idle::Store),
    /// Runners for `transfer` that only hold links.
    #[command(hide = true)]
    TransferIdleRunners(transfer::idle::Runners),
    /// What takes the bytes that `transfer` moved.
    #[command(hide = true)]
    TransferSink(transfer::payload::Sink),
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
    let report = match arguments.bench {
        Bench::Control => with_program(control::measure(scale))?,
        Bench::Commit => with_program(commit::measure(scale))?,
        Bench::Transfer { wan: false, part } => transfer::measure(scale, part)?,
        Bench::Transfer { wan: true, .. } => transfer::wan::measure(scale)?,
        Bench::TransferSend(send) => return Runtime::new()?.block_on(send.run()),
        Bench::TransferReceive(receive) => return Runtime::new()?.block_on(receive.run()),
        Bench::TransferIdleStore(store) => return Runtime::new()?.block_on(store.run()),
        Bench::TransferIdleRunners(runners) => return Runtime::new()?.block_on(runners.run()),
        Bench::TransferSink(sink) => return sink.run(),
    };
    print!("{}", report.table());
    if let Some(file) = arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// Runs a benchmark of `ds`, once that is built.
fn with_program(bench: impl Future<Output = Result<Report>>) -> Result<Report> {
    build_program()?;
    Runtime::new()?.block_on(bench)
}

/// Builds `ds` beside this program, from the same source and with the same profile.
fn build_program() -> Result<()> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("this program lies in TARGET/release")?;
    let status = std::process::Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet", "-p", "ds-cli", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cargo could not be started")?;
    ensure!(status.success(), "`ds` could not be built");
    Ok(())
}
