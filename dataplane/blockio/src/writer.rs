use std::{io, os::fd::OwnedFd, thread};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    BlockIo,
    stop::{self, Owner, Stop},
    threads, uring,
};

/// Writes buffers to a descriptor, in order.
///
/// Dropping it ends its thread and closes the descriptor; what was queued and not written yet is gone. To have it
/// written, [`finish`](BlockWriter::finish).
#[derive(Debug)]
pub struct BlockWriter {
    queue: mpsc::Sender<Bytes>,
    written: watch::Receiver<u64>,
    outcome: oneshot::Receiver<io::Result<()>>,
    /// The thread's error, once it was seen.
    failure: Option<io::Error>,
    owner: Owner,
}

/// All that a writing thread owns.
pub(crate) struct Sink {
    pub(crate) fd: OwnedFd,
    pub(crate) queue: mpsc::Receiver<Bytes>,
    pub(crate) written: watch::Sender<u64>,
    pub(crate) stop: Stop,
}

impl BlockWriter {
    pub(crate) fn spawn(io: BlockIo, fd: OwnedFd, depth: usize) -> io::Result<Self> {
        let (owner, stop) = stop::pair()?;
        let (queue, receiver) = mpsc::channel(depth);
        let (written_sender, written) = watch::channel(0);
        let (outcome_sender, outcome) = oneshot::channel();
        let sink = Sink { fd, queue: receiver, written: written_sender, stop };
        thread::Builder::new().name("ds-block-write".into()).spawn(move || {
            let outcome = match io {
                BlockIo::Uring => uring::write(sink),
                BlockIo::Threads => threads::write(sink),
            };
            // The descriptor is closed by now. A writer that was dropped has no interest in the outcome.
            let _ = outcome_sender.send(outcome);
        })?;
        Ok(Self { queue, written, outcome, failure: None, owner })
    }

    /// Queues bytes; waits while the queue is full. They are not written yet when it returns.
    ///
    /// An error is that of an earlier write, such as a broken pipe where the reader went away; every later call repeats
    /// it. A cancelled call has queued nothing.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.failure.is_none() && self.queue.send(bytes).await.is_ok() {
            return Ok(());
        }
        if self.failure.is_none() {
            let outcome = (&mut self.outcome).await.unwrap_or_else(|_| Err(died()));
            self.failure = Some(outcome.err().unwrap_or_else(died));
        }
        Err(self.failure.as_ref().map_or_else(died, repeat))
    }

    /// How many bytes the descriptor has taken; advances by whole pieces of [`write`](BlockWriter::write).
    ///
    /// In a pipe they may still wait for their reader.
    pub fn written_bytes(&self) -> u64 {
        *self.written.borrow()
    }

    /// Follows [`written_bytes`](BlockWriter::written_bytes) from another task. It closes when the thread ends.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Waits until everything queued is written and the descriptor is closed. Gives the total number of bytes.
    ///
    /// Cancelling it drops the writer.
    pub async fn finish(self) -> io::Result<u64> {
        let Self { queue, written, outcome, failure, owner } = self;
        if let Some(failure) = failure {
            return Err(failure);
        }
        // The closed queue is how the thread knows that no more comes; without its owner it would stop at once.
        drop(queue);
        let outcome = outcome.await.unwrap_or_else(|_| Err(died()));
        drop(owner);
        outcome.map(|()| *written.borrow())
    }
}

fn died() -> io::Error {
    io::Error::other("the writing thread ended early; its panic is in the log")
}

/// `io::Error` cannot be cloned.
fn repeat(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
