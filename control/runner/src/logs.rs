//! The log of a task: Docker's log of its container is read from the beginning, searched for run records, and sent to
//! the hub at its byte offsets.
//!
//! The offset counts the bytes of both outputs in the order in which Docker took them down, which is the same each time
//! they are read. So a runner that was restarted reads everything again, for the records, and sends only what the hub
//! does not have. A hub that is away makes the reader wait, never drop.

mod harvest;
mod spool;

use std::{pin::pin, time::Duration};

use ds_domain::TaskId;
use ds_proto::v1::{self, from_runner::Message};
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::harvest::Found;
use self::{
    harvest::Harvest,
    spool::{CHUNK_BYTES, Spool},
};
use crate::{
    backoff::Backoff,
    docker::{Docker, Frame},
    error::{Error, Result, explain},
    hub::{Connection, Hub},
};

/// How long a piece of output smaller than a chunk waits for more.
const LINGER: Duration = Duration::from_millis(100);

/// A log that was read to its end and is stored at the hub.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) found: Found,
    pub(crate) bytes: u64,
}

/// Reads and sends one task's log.
pub(crate) struct LogPump {
    task: TaskId,
    connections: watch::Receiver<Option<Connection>>,
    /// What the hub has acknowledged; written by the session.
    acked: watch::Receiver<u64>,
    harvest: Harvest,
    spool: Spool,
    /// The connection that `spool` was sent over.
    connection: Option<Connection>,
    /// Bytes of the log that were read, by this process.
    read: u64,
    /// When what is unsent will have waited long enough.
    flush_at: Option<Instant>,
}

impl LogPump {
    pub(crate) fn new(task: TaskId, hub: &Hub, acked: watch::Receiver<u64>) -> Self {
        let mut pump = Self {
            task,
            connections: hub.connections(),
            acked,
            harvest: Harvest::default(),
            spool: Spool::default(),
            connection: None,
            read: 0,
            flush_at: None,
        };
        pump.connection.clone_from(&pump.connections.borrow_and_update());
        pump.spool.ack(*pump.acked.borrow_and_update());
        pump
    }

    /// Runs until `ended` says that the container has ended and the hub has its whole log. Goes on over restarts of
    /// Docker and hub. Fails only if the container is gone.
    pub(crate) async fn run(mut self, docker: &Docker, ended: &CancellationToken) -> Result<Log> {
        let mut backoff = Backoff::default();
        loop {
            // A last reading from the beginning, after the end: nothing depends on how well Docker follows.
            let last = ended.is_cancelled();
            let reading = self.feed(docker.logs(self.task, !last));
            let read = if last {
                reading.await
            } else {
                tokio::select! { read = reading => read, () = ended.cancelled() => continue }
            };
            match read {
                Ok(()) if last => break,
                // Docker closes the log a moment before it says that the container has ended.
                Ok(()) => {
                    let _ = tokio::time::timeout(backoff.next(), ended.cancelled()).await;
                }
                Err(error) => {
                    if matches!(docker.state(self.task).await, Ok(None)) {
                        return Err(Error::ContainerGone);
                    }
                    tracing::warn!(task.id = %self.task, "reading the log again: {}", explain(&error));
                    backoff.wait().await;
                }
            }
        }
        self.drain().await;
        Ok(Log { found: self.harvest.finish(), bytes: self.read })
    }

    /// Takes frames until they end; the first `self.read` bytes of them are known. Dropped at any point, it has lost
    /// nothing but its place.
    async fn feed(&mut self, frames: impl Stream<Item = Result<Frame>>) -> Result<()> {
        let mut frames = pin!(frames);
        let mut known = self.read;
        loop {
            let room = self.spool.room() > 0;
            tokio::select! {
                frame = frames.next(), if room => match frame {
                    Some(frame) => self.take(frame?, &mut known),
                    None => return Ok(()),
                },
                wake = wake(&mut self.acked, &mut self.connections, self.flush_at) => self.attend(&wake),
            }
            self.send().await;
        }
    }

    fn take(&mut self, mut frame: Frame, known: &mut u64) {
        let skip = usize::try_from(*known).unwrap_or(usize::MAX).min(frame.bytes.len());
        *known -= skip as u64;
        let _ = frame.bytes.split_to(skip);
        if frame.bytes.is_empty() {
            return;
        }
        self.harvest.add(&frame);
        self.spool.add(self.read, &frame.bytes);
        self.read += frame.bytes.len() as u64;
        if self.spool.unsent() > 0 {
            self.flush_at.get_or_insert_with(|| Instant::now() + LINGER);
        }
    }

    fn attend(&mut self, wake: &Wake) {
        match wake {
            Wake::Acked => {
                let offset = *self.acked.borrow_and_update();
                self.spool.ack(offset);
            }
            Wake::Connection => {
                self.connection.clone_from(&self.connections.borrow_and_update());
                self.spool.rewind();
                self.flush_at = Some(Instant::now());
            }
            Wake::Lingered => {}
        }
    }

    /// Sends full chunks, and what is left once it has waited long enough.
    async fn send(&mut self) {
        let due = self.flush_at.is_some_and(|at| at <= Instant::now());
        let least = if due { 1 } else { CHUNK_BYTES };
        while let Some(connection) = &self.connection
            && self.spool.unsent() >= least
            && let Some((offset, data)) = self.spool.next_chunk()
        {
            let length = data.len();
            let chunk = v1::LogChunk { task_id: self.task.to_bytes(), offset, data };
            match connection.send(Message::Log(chunk)).await {
                Ok(()) => self.spool.sent(length),
                // The next connection gets it again.
                Err(_) => self.connection = None,
            }
        }
        if self.connection.is_none() || self.spool.unsent() == 0 {
            self.flush_at = None;
        }
    }

    /// Sends the rest and returns when the hub has all.
    async fn drain(&mut self) {
        self.flush_at = Some(Instant::now());
        self.send().await;
        while !self.spool.holds_nothing_before(self.read) {
            let wake = wake(&mut self.acked, &mut self.connections, self.flush_at).await;
            self.attend(&wake);
            self.send().await;
        }
    }
}

/// Something that lets the pump send or let go.
enum Wake {
    Acked,
    Connection,
    Lingered,
}

async fn wake(
    acked: &mut watch::Receiver<u64>,
    connections: &mut watch::Receiver<Option<Connection>>,
    flush_at: Option<Instant>,
) -> Wake {
    let lingered = async {
        match flush_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        Ok(()) = acked.changed() => Wake::Acked,
        Ok(()) = connections.changed() => Wake::Connection,
        () = lingered => Wake::Lingered,
    }
}

#[cfg(test)]
mod tests;
