//! The log of a task: Docker's log of its container is read from the beginning, searched for run records, and sent to
//! the hub at its byte offsets.
//!
//! The offset counts the bytes of both outputs in the order in which Docker took them down, which is the same each time
//! they are read. So a runner that was restarted reads everything again, for the records, and sends only what the hub
//! does not have; likewise when the hub has less than it said before. A hub that is away makes the reader wait, never drop.
//!
//! A log has [`MAX_TASK_LOG`] bytes. What comes after them is neither searched nor sent: [`too_long`] sees to it that the
//! command is ended then, whether or not the hub takes anything.

mod harvest;
mod spool;

use std::{pin::pin, time::Duration};

use ds_domain::{TaskId, task::MAX_TASK_LOG};
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
    spool::{CHUNK_BYTES, Spool, beyond},
};
use crate::{
    backoff::Backoff,
    docker::{Docker, Frame, container::MAX_LOG_FILE},
    error::{Error, Result, explain},
    hub::{Connection, Hub},
};

/// How long a piece of output smaller than a chunk waits for more.
const LINGER: Duration = Duration::from_millis(100);

/// What an entry of Docker's log, a line mostly, takes besides its text.
const ENTRY_BYTES: u64 = 32;

/// A log that was read to its end and is stored at the hub.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) found: Found,
    pub(crate) bytes: u64,
    /// Whether there was more than is kept.
    pub(crate) cut: bool,
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
    /// Bytes of the log that were read and searched, by this process.
    read: u64,
    limit: u64,
    cut: bool,
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
            limit: MAX_TASK_LOG,
            cut: false,
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
                Ok(Read::SetBack) => {}
                Ok(Read::All) if last => {
                    if let Some(bytes) = self.drain().await {
                        return Ok(Log { found: self.harvest.finish(), bytes, cut: self.cut });
                    }
                }
                // Docker closes the log a moment before it says that the container has ended.
                Ok(Read::All) => {
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
    }

    /// Takes frames until they end, or until something before them is needed again; they begin with the log. Dropped at
    /// any point, it has lost nothing but its place.
    async fn feed(&mut self, frames: impl Stream<Item = Result<Frame>>) -> Result<Read> {
        let mut frames = pin!(frames);
        let mut place = 0;
        while self.spool.end() >= place {
            let room = self.spool.room() > 0;
            tokio::select! {
                frame = frames.next(), if room => match frame {
                    Some(frame) => self.take(frame?, &mut place),
                    None => return Ok(Read::All),
                },
                wake = wake(&mut self.acked, &mut self.connections, self.flush_at) => self.attend(&wake),
            }
            self.send().await;
        }
        Ok(Read::SetBack)
    }

    /// Takes a frame that begins at `place` of the log, and moves that to the frame's end.
    fn take(&mut self, mut frame: Frame, place: &mut u64) {
        let kept = usize::try_from(self.limit - *place).unwrap_or(usize::MAX);
        self.cut |= frame.bytes.len() > kept;
        frame.bytes.truncate(kept);
        self.harvest.add(frame.source, beyond(self.read, *place, &frame.bytes));
        self.spool.add(*place, &frame.bytes);
        *place += frame.bytes.len() as u64;
        self.read = self.read.max(*place);
        if self.spool.unsent() > 0 {
            self.flush_at.get_or_insert_with(|| Instant::now() + LINGER);
        }
    }

    fn attend(&mut self, wake: &Wake) {
        // Whatever woke it: what a new session begins with is known before anything is sent over it, if it can be.
        let offset = *self.acked.borrow_and_update();
        self.spool.ack(offset);
        match wake {
            Wake::Connection => {
                self.connection.clone_from(&self.connections.borrow_and_update());
                self.spool.rewind();
                self.flush_at = Some(Instant::now());
            }
            Wake::Acked | Wake::Lingered => {}
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

    /// Sends the rest and returns how long the log is when the hub has all; none if it has to be read again for that.
    async fn drain(&mut self) -> Option<u64> {
        // Less than was read only if Docker lost some of it meanwhile.
        let length = self.spool.end().min(self.read);
        self.flush_at = Some(Instant::now());
        self.send().await;
        while !self.spool.holds_nothing_before(length) {
            let wake = wake(&mut self.acked, &mut self.connections, self.flush_at).await;
            self.attend(&wake);
            if self.spool.end() < length {
                return None;
            }
            self.send().await;
        }
        Some(length)
    }
}

/// Why a reading ended.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// Docker has no more.
    All,
    /// The hub has less than it said before: the log has to be read again from its beginning.
    SetBack,
}

/// Returns when a command has written more than a task's log may have. Reads on its own: where the hub is away, nobody
/// else does, and Docker would take all down until the machine's disk is full.
pub(crate) async fn too_long(docker: &Docker, task: TaskId) {
    longer_than(docker, task, MAX_TASK_LOG, MAX_LOG_FILE / 2).await;
}

async fn longer_than(docker: &Docker, task: TaskId, limit: u64, file_limit: u64) {
    let mut backoff = Backoff::default();
    loop {
        let mut frames = pin!(docker.logs(task, true));
        let (mut log, mut file) = (0, 0);
        while let Some(Ok(frame)) = frames.next().await {
            log += frame.bytes.len() as u64;
            file += frame.bytes.len() as u64 + ENTRY_BYTES;
            if log > limit || file > file_limit {
                return;
            }
        }
        // It ended, or Docker is away: who waits for the container finds that out.
        backoff.wait().await;
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
