//! From one `zfs send` to one receiver or several, no faster than is allowed.
//!
//! What is read is written into each receiver's pipe, which holds some blocks: the slowest sets the pace, and
//! one that has gone is left out. Without a limit and with one receiver there is nothing between the two.

use std::{
    convert::Infallible,
    fmt,
    future::pending,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ds_blockio::{BlockReader, BlockWriter};
use ds_zfs::{
    Sending,
    replication::{Invalid, Limits},
};
use futures_util::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, Shared, join_all},
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use time::{OffsetDateTime, UtcOffset};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::{Error, Result};

/// Bytes read at once: small enough that a slow limit does not come in gusts.
const BLOCK_BYTES: usize = 256 << 10;
/// As large as the kernel allows those without privileges.
const PIPE_BYTES: usize = 1 << 20;
/// What was not used of a limit is lost after so long.
const SAVED: Duration = Duration::from_millis(200);
const NANOS: u128 = 1_000_000_000;

/// A rate that everything which takes from it shares, by the time of day.
#[derive(Debug)]
pub struct Pace {
    limits: Limits,
    /// As the limits were written, for the other end.
    text: String,
    offset: UtcOffset,
    /// When what was taken so far has been earned.
    earned: Mutex<Instant>,
}

impl Pace {
    /// Limits as they are typed, by a clock that is off UTC by `offset`.
    pub fn read(text: &str, offset: UtcOffset) -> std::result::Result<Self, Invalid> {
        let limits = text.parse()?;
        Ok(Self { limits, text: text.to_owned(), offset, earned: Mutex::new(Instant::now()) })
    }

    /// Seconds that its clock is ahead of UTC.
    pub(crate) fn utc_offset_s(&self) -> i32 {
        self.offset.whole_seconds()
    }

    /// Waits until so many bytes may flow.
    pub(crate) async fn take(&self, bytes: usize) {
        let mut left = bytes as u64;
        while left > 0 {
            let now = OffsetDateTime::now_utc().to_offset(self.offset);
            let Some(rate) = self.limits.at(now) else { return };
            // A limit may change while a block waits: it is paid in pieces of a second.
            let part = left.min(rate);
            left -= part;
            let cost = u128::from(part) * NANOS / u128::from(rate);
            let due = self.due(Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX)));
            sleep_until(due).await;
        }
    }

    /// Everybody's turn comes one after the other.
    fn due(&self, cost: Duration) -> Instant {
        let mut earned = self.earned.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = Instant::now().checked_sub(SAVED).unwrap_or_else(Instant::now);
        *earned = (*earned).max(oldest) + cost;
        *earned
    }
}

/// As it was typed.
impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The stream of one `zfs send`, for each of its receivers.
pub(crate) struct Feed<'a> {
    /// For each receiver.
    pub(crate) pipes: Vec<OwnedFd>,
    /// Says whether it was whole, once it has ended.
    pub(crate) whole: Whole<'a>,
    /// To be polled for as long as anybody reads.
    pub(crate) pumping: BoxFuture<'a, Infallible>,
}

pub(crate) type Whole<'a> = Shared<BoxFuture<'a, std::result::Result<(), Arc<Error>>>>;

/// Reads `source` once for so many receivers, at the pace that is set.
pub(crate) fn feed(source: Sending, receivers: usize, pace: Option<&Pace>) -> Result<Feed<'_>> {
    let Sending { stdout, process } = source;
    if receivers == 1 && pace.is_none() {
        let whole = async { process.finish().await.map_err(|error| Arc::new(error.into())) };
        let whole = whole.boxed().shared();
        return Ok(Feed { pipes: vec![stdout], whole, pumping: pending().boxed() });
    }
    let ends: Vec<_> = (0..receivers).map(|_| pipe()).collect::<Result<_>>()?;
    let (pipes, writes): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    let (ended, pumped) = oneshot::channel();
    let pumping = async move {
        // Nobody waits for it where all receivers failed.
        let _ = ended.send(pump(stdout, writes, pace).await);
        pending().await
    };
    let whole = async {
        pumped.await.map_err(|_| Error::Cancelled)??;
        Ok(process.finish().await?)
    };
    Ok(Feed { pipes, whole: whole.map_err(Arc::new).boxed().shared(), pumping: pumping.boxed() })
}

/// Copies all of `from` into each of `to`, at the pace that is set. Ends early, with an error, only when nobody
/// takes it any more or it cannot be read.
async fn pump(from: OwnedFd, to: Vec<OwnedFd>, pace: Option<&Pace>) -> Result<()> {
    let mut reader = BlockReader::new(from, BLOCK_BYTES).map_err(Error::Pipe)?;
    let writers: std::io::Result<Vec<_>> = to.into_iter().map(BlockWriter::new).collect();
    let mut writers = writers.map_err(Error::Pipe)?;
    while let Some(block) = reader.next().await {
        let block = block.map_err(Error::Pipe)?;
        if let Some(pace) = pace {
            pace.take(block.len()).await;
        }
        writers = write_to_each(writers, &block).await;
        if writers.is_empty() {
            let gone = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "no receiver is left");
            return Err(Error::Pipe(gone));
        }
    }
    Ok(())
}

/// Gives back those that still take: one that has gone knows why.
async fn write_to_each(writers: Vec<BlockWriter>, block: &Bytes) -> Vec<BlockWriter> {
    let writing = writers.into_iter().map(async |mut writer| {
        let written = writer.write(&mut block.clone()).await;
        written.is_ok().then_some(writer)
    });
    join_all(writing).await.into_iter().flatten().collect()
}

/// The two ends of a pipe, to read from and to write into.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::Pipe(errno.into()))?;
    // A smaller one works too.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pace(limits: &str) -> Pace {
        Pace::read(limits, UtcOffset::UTC).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_take_share_one_rate() {
        let pace = pace("10MB");
        let from = Instant::now();
        let some = async || {
            for _ in 0..20 {
                pace.take(1_000_000).await;
            }
        };
        tokio::join!(some(), some());
        let took = from.elapsed().as_secs_f64();
        assert!((3.7..4.1).contains(&took), "40 MB at 10 MB/s took {took} s");
        let unlimited = self::pace("unlimited");
        let from = Instant::now();
        unlimited.take(usize::MAX).await;
        assert_eq!(from.elapsed(), Duration::ZERO);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_goes_leaves_the_others_whole() {
        let (from, mut source) = pipe().unwrap();
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (read, write) = pipe().unwrap();
            reads.push(read);
            writes.push(write);
        }
        let content: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let expected = content.clone();
        let feeding = std::thread::spawn(move || {
            std::fs::File::from(std::mem::replace(&mut source, pipe().unwrap().1))
                .write_all(&content)
                .unwrap();
        });
        drop(reads.remove(1));
        let readers: Vec<_> = reads
            .into_iter()
            .map(|read| {
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    std::fs::File::from(read).read_to_end(&mut all).unwrap();
                    all
                })
            })
            .collect();
        pump(from, writes, None).await.unwrap();
        feeding.join().unwrap();
        for reader in readers {
            assert!(reader.join().unwrap() == expected);
        }
    }
}
