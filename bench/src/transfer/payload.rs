//! What all peers move: the same block of random bytes again and again, from memory into a pipe and out of one into nothing.
//!
//! Both ends splice, so neither copies a byte: what the two take of the machine's cores is lost to all peers alike, and
//! small. The source is a thread of the bench, the sink a process, because ssh has to start it.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use serde::{Deserialize, Serialize};

use super::process::{cpu_of, now, own_program};

/// Larger than any cache, so that it is read from memory as other data would be.
const BLOCK_BYTES: u64 = 64 << 20;
/// The most that a process may ask for by default; every pipe of every peer has it.
const PIPE_BYTES: usize = 1 << 20;
/// How often it is looked for the report of a sink that a foreign program started.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);
/// How long a sink that was to stop keeps its pipe at most.
const TIME_TO_STOP: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The bytes that are sent.
#[derive(Debug)]
pub(crate) struct Source {
    block: File,
}

impl Source {
    /// Fills the block with random bytes: no peer can compress it.
    pub(crate) fn random() -> Result<Self> {
        let mut block = File::from(memfd_create("ds-bench", MemfdFlags::CLOEXEC)?);
        let random = File::open("/dev/urandom")?;
        io::copy(&mut io::Read::take(random, BLOCK_BYTES), &mut block)?;
        Ok(Self { block })
    }

    /// A pipe that yields `bytes` of them and then ends. The thread that fills it ends with them, or with the pipe's
    /// reader.
    pub(crate) fn feed(&self, bytes: u64) -> Result<(OwnedFd, JoinHandle<io::Result<()>>)> {
        let (read, write) = wide_pipe()?;
        let block = self.block.try_clone()?;
        let feeder = thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                let mut sent = 0;
                while sent < bytes {
                    let mut offset = sent % BLOCK_BYTES;
                    let piece = (BLOCK_BYTES - offset).min(bytes - sent).min(PIPE_BYTES as u64);
                    let piece = usize::try_from(piece).expect("at most a pipe");
                    sent +=
                        splice(&block, Some(&mut offset), &write, None, piece, SpliceFlags::empty())? as u64;
                }
                Ok(())
            })
            .context("no thread for the source")?;
        Ok((read, feeder))
    }
}

/// A pipe of 1 MiB: set before anything is in it, since to resize one that is in use can deadlock. Its ends are passed
/// on to children as their standard input and output, and to nobody else.
pub(crate) fn wide_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&write, PIPE_BYTES)?;
    Ok((read, write))
}

/// How much a transfer moves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// What comes within so many seconds from the first byte on; more is on its way when they end.
    Seconds(u64),
}

/// Arguments of the process that takes what arrived.
#[derive(Debug, Args)]
pub(crate) struct Sink {
    /// How many bytes must come.
    #[arg(long, required_unless_present = "seconds", conflicts_with = "seconds")]
    expect: Option<u64>,
    /// When to stop, counted from the first byte; more must be to come then.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where to write what happened, as JSON.
    #[arg(long)]
    report: PathBuf,
}

/// What a sink saw.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Drained {
    pub(crate) bytes: u64,
    /// When the first byte came, by [`now`].
    pub(crate) first_byte_at: Duration,
    /// CPU time that the sink took itself.
    pub(crate) cpu: Duration,
}

impl Sink {
    /// What starts one that takes `amount`.
    pub(crate) fn command(amount: Amount, report: &Path) -> Command {
        let (option, amount) = match amount {
            Amount::Bytes(bytes) => ("--expect", bytes),
            Amount::Seconds(seconds) => ("--seconds", seconds),
        };
        let mut command = Command::new(own_program());
        command.args(["transfer-sink", option, &amount.to_string(), "--report"]).arg(report);
        command
    }

    /// Drops standard input and checks its length.
    pub(crate) fn run(&self) -> Result<()> {
        let nowhere = File::options().write(true).open("/dev/null")?;
        let (mut bytes, mut first_byte_at) = (0, None);
        while self.comes_in_time(first_byte_at)? {
            let piece = splice(io::stdin(), None, &nowhere, None, PIPE_BYTES, SpliceFlags::empty())
                .context("standard input has to be a pipe")?;
            if piece == 0 {
                ensure!(self.seconds.is_none(), "the transfer ended after {bytes} bytes");
                break;
            }
            first_byte_at.get_or_insert_with(now);
            bytes += piece as u64;
        }
        if let Some(expected) = self.expect {
            ensure!(bytes == expected, "{bytes} bytes arrived of {expected}");
        }
        let drained =
            Drained { bytes, first_byte_at: first_byte_at.context("nothing")?, cpu: cpu_of("self")? };
        // Under another name first: who waits for it must not see half of it.
        let unfinished = self.report.with_extension("unfinished");
        fs::write(&unfinished, serde_json::to_vec(&drained)?)?;
        fs::rename(unfinished, &self.report)?;
        if self.seconds.is_some() {
            // Those before it are killed in the middle of it; gone sooner, it would have them complain of a broken pipe.
            poll(&mut [PollFd::new(&io::stdin(), PollFlags::empty())], Some(&TIME_TO_STOP))?;
        }
        Ok(())
    }

    /// Waits for more, or for the end of the time.
    fn comes_in_time(&self, first_byte_at: Option<Duration>) -> Result<bool> {
        let (Some(seconds), Some(first)) = (self.seconds, first_byte_at) else { return Ok(true) };
        let left = (first + Duration::from_secs(seconds)).saturating_sub(now());
        let stdin = io::stdin();
        let mut input = [PollFd::new(&stdin, PollFlags::IN)];
        Ok(!left.is_zero() && poll(&mut input, Some(&Timespec::try_from(left)?))? > 0)
    }
}

impl Drained {
    /// Reads a sink's report, once.
    pub(crate) fn take(report: &Path) -> Result<Self> {
        let drained = serde_json::from_slice(&fs::read(report).context("the sink left no report")?)?;
        fs::remove_file(report)?;
        Ok(drained)
    }

    /// Waits for the report of a sink that a foreign program started, and reads it.
    pub(crate) fn wait(report: &Path, patience: Duration) -> Result<Self> {
        let start = Instant::now();
        while !report.exists() {
            ensure!(start.elapsed() < patience, "nothing came to its end within {} s", patience.as_secs());
            thread::sleep(REPORT_INTERVAL);
        }
        Self::take(report)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_source_yields_as_much_as_it_is_asked_for_and_repeats_its_block() {
        let source = Source::random().unwrap();
        let (read, feeder) = source.feed(BLOCK_BYTES + 1000).unwrap();
        let mut bytes = Vec::new();
        File::from(read).read_to_end(&mut bytes).unwrap();
        feeder.join().unwrap().unwrap();
        assert_eq!(bytes.len() as u64, BLOCK_BYTES + 1000);
        assert_eq!(bytes[..1000], bytes[bytes.len() - 1000..]);
        assert_ne!(bytes[..1000], bytes[1000..2000]);
    }

    #[test]
    fn a_source_ends_with_its_reader() {
        let (read, feeder) = Source::random().unwrap().feed(BLOCK_BYTES).unwrap();
        drop(read);
        assert_eq!(feeder.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
