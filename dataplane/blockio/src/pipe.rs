use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use rustix::pipe::fcntl_setpipe_size;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::{Receiver, Sender},
};

use crate::{Buffer, Buffers};

/// What `fs.pipe-max-size` allows everyone unless it was changed.
const PIPE_BYTES: usize = 1 << 20;

/// The bytes of a pipe, in full blocks. Dropping it closes the pipe.
#[derive(Debug)]
pub struct BlockReader {
    /// `None` after the end, and after an error.
    pipe: Option<Receiver>,
    buffers: Arc<Buffers>,
    block_bytes: usize,
    /// What is being filled, and how far.
    block: Option<(Buffer, usize)>,
}

impl BlockReader {
    /// Reads `pipe` in blocks of `block_bytes`. Within a Tokio runtime, which it stays with.
    pub fn new(pipe: OwnedFd, block_bytes: usize) -> io::Result<Self> {
        if block_bytes == 0 {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "blocks of 0 bytes: nothing would ever move",
            ));
        }
        widen(&pipe);
        let pipe = Some(Receiver::from_owned_fd(pipe)?);
        Ok(Self { pipe, buffers: Buffers::new(block_bytes), block_bytes, block: None })
    }

    /// The next block: full, unless it is the last. `None` after the end, and after an error.
    ///
    /// Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let filled = self.fill().await;
        match filled {
            Ok(filled @ 1..) => {
                let (mut block, _) = self.block.take().expect("it was just filled");
                block.truncate(filled);
                Some(Ok(block.freeze()))
            }
            Ok(0) => {
                self.pipe = None;
                None
            }
            Err(error) => {
                self.pipe = None;
                Some(Err(error))
            }
        }
    }

    /// Fills the block, as far as there is anything.
    async fn fill(&mut self) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let (block, filled) = self.block.get_or_insert_with(|| (self.buffers.take(self.block_bytes), 0));
        while *filled < self.block_bytes {
            match pipe.read(&mut block.as_mut()[*filled..]).await? {
                0 => break,
                read => *filled += read,
            }
        }
        Ok(*filled)
    }
}

/// Writes bytes into a pipe, in order. Dropping it closes the pipe.
#[derive(Debug)]
pub struct BlockWriter {
    pipe: Sender,
    written_bytes: u64,
}

impl BlockWriter {
    /// Within a Tokio runtime, which it stays with.
    pub fn new(pipe: OwnedFd) -> io::Result<Self> {
        widen(&pipe);
        Ok(Self { pipe: Sender::from_owned_fd(pipe)?, written_bytes: 0 })
    }

    /// Writes all of `bytes`, and takes from them what is written: cancelled, it goes on where it was.
    ///
    /// A broken pipe, where the reader went away, is an error.
    pub async fn write(&mut self, bytes: &mut Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            // Which takes from `bytes` what is written.
            self.written_bytes += self.pipe.write_buf(bytes).await? as u64;
        }
        Ok(())
    }

    /// How many bytes the pipe has taken. They may still wait there for their reader.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
}

/// A pipe holds as much as a program may ask for, where it can: less waking of the two ends for each other.
fn widen(pipe: impl AsFd) {
    // Refused where the user's pipes have taken all the memory that they may.
    let _ = fcntl_setpipe_size(pipe, PIPE_BYTES);
}
