//! Pipes into owned buffers and back: `io_uring`, or threads where that is refused.
//!
//! [`BlockIo::reader`] turns a file descriptor into full [`Bytes`](bytes::Bytes) buffers, [`BlockIo::writer`] the other
//! way round. Each has one thread of its own, so a pipe that stands still keeps no worker of the async runtime busy, and a
//! bounded queue between that thread and its user: who is faster waits.
//!
//! **Ending.** The thread ends with its [`BlockReader`] or [`BlockWriter`], also while the pipe is idle or full. No thread
//! is ever blocked inside `read` or `write`: the descriptor is set non-blocking, and the thread waits for it together with
//! a second descriptor, a pipe that closes when its owner goes away. `O_NONBLOCK` belongs to the open file description:
//! hand over an end of a pipe that nobody else in the machine reads (or writes) through a duplicate.
//!
//! **`io_uring`.** `tokio-uring` 0.5 has no way to cancel an operation, and its runtime does not end while one is under
//! way, so a read that waits in the kernel would pin the thread for as long as the pipe is idle. `O_NONBLOCK` does not
//! prevent that: newer kernels let an operation on such a pipe wait all the same. Reads and writes are therefore only
//! submitted when `poll` says that the descriptor is ready, and complete at once. So on a pipe the ring saves no system
//! call over threads; expect no gain before files and registered buffers use it. Where a container's seccomp profile or
//! the kernel refuses `io_uring`, [`BlockIo::detect`] takes threads, and says so once.
//!
//! What this crate does not know: what the bytes mean, who is at the other end.
//!
//! Start reading at [`BlockIo`], then `threads.rs`, which is the simpler of the two.

mod buffers;
mod reader;
mod stop;
mod threads;
mod uring;
mod writer;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::OnceLock,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::fcntl_setpipe_size,
};

pub use reader::BlockReader;
pub use writer::BlockWriter;

/// What `fs.pipe-max-size` allows everyone unless it was changed.
const PIPE_BYTES: usize = 1 << 20;

/// How this process moves bytes between descriptors and buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockIo {
    /// Through an `io_uring` for each reader and writer.
    Uring,
    /// With `poll`, `read` and `write`.
    Threads,
}

impl BlockIo {
    /// What this machine allows: `io_uring` if it works, else threads. Tried once in the life of the process.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<BlockIo> = OnceLock::new();
        *DETECTED.get_or_init(|| match uring::probe() {
            Ok(()) => {
                tracing::info!("pipes go through io_uring");
                Self::Uring
            }
            Err(error) => {
                tracing::info!(%error, "io_uring is refused here: pipes go through threads");
                Self::Threads
            }
        })
    }

    /// Threads, whatever the machine allows.
    pub fn threads() -> Self {
        Self::Threads
    }

    /// Reads `fd` to its end in buffers of `buffer_bytes`, of which at most `depth` wait to be taken.
    ///
    /// In memory are at most `depth + 2` buffers (one that is being filled, one that waits for room in the queue), and
    /// those that the caller keeps.
    pub fn reader(&self, fd: OwnedFd, buffer_bytes: usize, depth: usize) -> io::Result<BlockReader> {
        require("buffer_bytes", buffer_bytes)?;
        require("depth", depth)?;
        set_nonblocking(&fd)?;
        widen(&fd);
        BlockReader::spawn(*self, fd, buffer_bytes, depth)
    }

    /// Writes to `fd` what it is given, of which at most `depth` pieces wait to be written.
    pub fn writer(&self, fd: OwnedFd, depth: usize) -> io::Result<BlockWriter> {
        require("depth", depth)?;
        set_nonblocking(&fd)?;
        widen(&fd);
        BlockWriter::spawn(*self, fd, depth)
    }
}

fn require(what: &str, value: usize) -> io::Result<()> {
    if value == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{what} is 0: nothing would ever move"),
        ));
    }
    Ok(())
}

/// A pipe holds as much as a program may ask for, where it can: less waking of the two ends for each other.
fn widen(fd: impl AsFd) {
    // Refused for what is no pipe, and where the user's pipes have taken all the memory that they may.
    let _ = fcntl_setpipe_size(fd, PIPE_BYTES);
}

fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?)
}
