//! What arrived of a stream, in a file, where ZFS cannot go on with a receive that broke off: the next attempt finds it there
//! instead of sending it again.
//!
//! Nothing is noted of what lies where, or of which stream it is. Every chunk has its place, and digests say which chunks of the
//! next stream are the same; whatever a crash has left in the file does no harm.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use ds_blockio::Buffer;
use ds_wire::{CHUNK_BYTES, Chunk, ChunkHeader, Digest, Digester};
use rustix::fs::fstatvfs;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Chunks that wait to be written. More are not kept: they are sent again, if it comes to that.
const BACKLOG: usize = 8;
/// Of the file's filesystem, in percent; what would leave less free is not kept.
const LEAST_FREE_PERCENT: u64 = 10;
/// Chunks that are digested at once: few, because meanwhile the sender sends them.
const BATCH: u64 = 16;

/// The spool of one transfer.
#[derive(Debug)]
pub(crate) struct Spool {
    file: Arc<File>,
    backlog: Arc<Semaphore>,
}

impl Spool {
    /// In the file at `path`, with what is in it. Nobody else may read it: it holds what the dataset holds.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file: Arc::new(file), backlog: Arc::new(Semaphore::new(BACKLOG)) })
    }

    /// The digests, under a transfer's key, of what lies in the places of its chunks from `first` on: some, or none at the end.
    pub(crate) async fn digests(&self, first: u64, digester: Arc<Digester>) -> io::Result<Vec<Digest>> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let (mut digests, mut block) = (Vec::new(), vec![0; CHUNK_BYTES]);
            let end = file.metadata()?.len();
            for index in first..first + BATCH {
                let offset = index.saturating_mul(CHUNK_BYTES as u64);
                let length = end.saturating_sub(offset).min(CHUNK_BYTES as u64);
                if length == 0 {
                    break;
                }
                let block = &mut block[..usize::try_from(length).expect("at most a chunk")];
                file.read_exact_at(block, offset)?;
                digests.push(digester.of(index, block));
            }
            Ok(digests)
        })
        .await
    }

    /// Writes a chunk behind the scenes, if there is time and room.
    pub(crate) fn keep(&self, chunk: &Chunk) {
        let Ok(place) = Arc::clone(&self.backlog).try_acquire_owned() else { return };
        let (file, offset, payload) =
            (Arc::clone(&self.file), chunk.header().offset, chunk.payload().clone());
        spawn_blocking(move || {
            let kept = has_room(&file)
                .and_then(|room| if room { file.write_all_at(&payload, offset) } else { Ok(()) });
            if let Err(error) = kept {
                tracing::debug!(%error, "a chunk was not kept in the spool");
            }
            drop(place);
        });
    }

    /// Reads a chunk that the sender has the same of.
    pub(crate) async fn read(&self, header: &ChunkHeader, mut buffer: Buffer) -> io::Result<Buffer> {
        let (file, offset) = (Arc::clone(&self.file), header.offset);
        blocking(move || file.read_exact_at(buffer.as_mut(), offset).map(|()| buffer)).await
    }

    /// Forgets all of it: the disk gives something else than it was given.
    pub(crate) fn discard(&self) {
        let _ = self.file.set_len(0);
    }
}

fn has_room(file: &File) -> io::Result<bool> {
    let filesystem = fstatvfs(file)?;
    Ok(filesystem.f_bavail.saturating_mul(100) >= filesystem.f_blocks.saturating_mul(LEAST_FREE_PERCENT))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("it was given up")))
}
