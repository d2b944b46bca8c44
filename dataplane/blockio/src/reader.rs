use std::{io, os::fd::OwnedFd, thread};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    BlockIo,
    buffers::Buffers,
    stop::{self, Owner, Stop},
    threads, uring,
};

/// The bytes of a descriptor, in full buffers. Dropping it ends its thread and closes the descriptor.
#[derive(Debug)]
pub struct BlockReader {
    blocks: mpsc::Receiver<Block>,
    ended: bool,
    _owner: Owner,
}

/// What a reading thread passes on. An empty block says that the end was reached: a queue that closes without one means
/// that the thread died, and must not look like the end of the stream.
pub(crate) type Block = io::Result<Bytes>;

/// All that a reading thread owns.
pub(crate) struct Source {
    pub(crate) fd: OwnedFd,
    pub(crate) buffers: Buffers,
    pub(crate) blocks: mpsc::Sender<Block>,
    pub(crate) stop: Stop,
}

impl BlockReader {
    pub(crate) fn spawn(io: BlockIo, fd: OwnedFd, buffer_bytes: usize, depth: usize) -> io::Result<Self> {
        let (owner, stop) = stop::pair()?;
        let (sender, blocks) = mpsc::channel(depth);
        let source = Source { fd, buffers: Buffers::new(buffer_bytes, depth + 2), blocks: sender, stop };
        thread::Builder::new().name("ds-block-read".into()).spawn(move || match io {
            BlockIo::Uring => uring::read(source),
            BlockIo::Threads => threads::read(source),
        })?;
        Ok(Self { blocks, ended: false, _owner: owner })
    }

    /// The next buffer: full, unless it is the last. `None` after the end, and after an error.
    ///
    /// Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        let block = self.blocks.recv().await.unwrap_or_else(|| {
            Err(io::Error::other(
                "the reading thread ended before the end of the stream; its panic is in the log",
            ))
        });
        match block {
            Ok(bytes) if !bytes.is_empty() => Some(Ok(bytes)),
            Ok(_) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}

/// Whether a reading thread is through after this block.
pub(crate) fn is_last(block: &Block) -> bool {
    block.as_ref().map_or(true, Bytes::is_empty)
}
