//! Operations on an `io_uring` of its own, driven by a `tokio-uring` runtime on a plain thread.

use std::{
    fs::File as StdFile,
    io::{self, ErrorKind},
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use bytes::{Buf, Bytes};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
};
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdRegisterError},
};
use tokio_uring::{Runtime, buf::BoundedBuf, fs::File};

use crate::{
    buffers::Buffers,
    reader::{Source, is_last},
    stop::{Stop, stopped},
    writer::Sink,
};

/// One operation at a time, and the closing of its descriptor.
const RING_ENTRIES: u32 = 8;

/// The offset that means "go on where the last one ended", the only one that a pipe has.
const ONWARDS: u64 = u64::MAX;

/// Tries what the two pumps need: a ring, and a byte through a pipe.
pub(crate) fn probe() -> io::Result<()> {
    // First alone, since a runtime that gets no ring leaks its other half.
    drop(tokio_uring::uring_builder().build(RING_ENTRIES)?);
    // On a thread of its own, since the caller may be inside a runtime.
    let probing = thread::Builder::new().name("ds-block-probe".into()).spawn(|| {
        runtime()?.block_on(async {
            let (reading_end, writing_end) = pipe_with(PipeFlags::CLOEXEC)?;
            let (reader, writer) = (File::from_std(reading_end.into()), File::from_std(writing_end.into()));
            writer.write_at(Bytes::from_static(b"?"), ONWARDS).submit().await.0?;
            let (result, _) = reader.read_at(Vec::with_capacity(1), ONWARDS).await;
            if result? == 1 { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
        })
    })?;
    probing.join().unwrap_or_else(|_| Err(io::Error::other("the probe of io_uring panicked")))
}

/// The whole life of a reading thread.
pub(crate) fn read(source: Source) {
    let Source { fd, mut buffers, blocks, stop } = source;
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The only way that this fails is that the reader is gone.
            let _ = blocks.blocking_send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let mut descriptor = Descriptor::new(fd, Interest::READABLE, stop);
        loop {
            let block = match &mut descriptor {
                Ok(descriptor) => descriptor.fill(&mut buffers).await,
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            let last = is_last(&block);
            if blocks.send(block).await.is_err() || last {
                return;
            }
        }
    });
}

/// The whole life of a writing thread; closes the descriptor.
pub(crate) fn write(sink: Sink) -> io::Result<()> {
    let Sink { fd, mut queue, written, stop } = sink;
    runtime()?.block_on(async {
        let descriptor = Descriptor::new(fd, Interest::WRITABLE, stop)?;
        while let Some(bytes) = queue.recv().await {
            let length = bytes.len() as u64;
            descriptor.write_all(bytes).await?;
            written.send_modify(|total| *total += length);
        }
        Ok(())
    })
}

fn runtime() -> io::Result<Runtime> {
    Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))
}

/// A non-blocking descriptor with a ring beneath it.
struct Descriptor {
    file: Pollable,
    interest: Interest,
    stop: AsyncFd<Stop>,
}

enum Pollable {
    /// A pipe or socket.
    Yes(AsyncFd<File>),
    /// A regular file: always ready.
    No(File),
}

impl Descriptor {
    fn new(fd: OwnedFd, interest: Interest, stop: Stop) -> io::Result<Self> {
        let file = match watch(File::from_std(StdFile::from(fd)), interest) {
            Ok(file) => Pollable::Yes(file),
            Err(refused) => match refused.into_parts() {
                (file, error) if error.kind() == ErrorKind::PermissionDenied => Pollable::No(file),
                (_, error) => return Err(error),
            },
        };
        Ok(Self { file, interest, stop: watch(stop, Interest::READABLE)? })
    }

    fn file(&self) -> &File {
        match &self.file {
            Pollable::Yes(file) => file.get_ref(),
            Pollable::No(file) => file,
        }
    }

    /// Waits until an operation would not wait, or fails when the user is gone.
    async fn ready(&self) -> io::Result<()> {
        let Pollable::Yes(file) = &self.file else { return Ok(()) };
        let events = if self.interest.is_writable() { PollFlags::OUT } else { PollFlags::IN };
        loop {
            let mut ready = tokio::select! {
                biased;
                _ = self.stop.readable() => return Err(stopped()),
                ready = file.ready(self.interest) => ready?,
            };
            // The runtime remembers a readiness that the last operation may have used up, and a newer kernel lets an
            // operation wait even on a non-blocking pipe. So the descriptor itself is asked.
            if poll(&mut [PollFd::new(file, events)], Some(&Timespec::default()))? > 0 {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Reads until a buffer is full or the end is reached; an empty one is the end.
    async fn fill(&self, buffers: &mut Buffers) -> io::Result<Bytes> {
        let mut buffer = buffers.take();
        while buffer.len() < buffers.buffer_bytes() {
            self.ready().await?;
            let filled = buffer.len();
            let (result, slice) = self.file().read_at(buffer.slice(filled..), ONWARDS).await;
            buffer = slice.into_inner();
            if transferred(result)? == Some(0) {
                break;
            }
        }
        Ok(buffers.hand_out(buffer))
    }

    async fn write_all(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            self.ready().await?;
            let (result, rest) = self.file().write_at(bytes, ONWARDS).submit().await;
            bytes = rest;
            bytes.advance(transferred(result)?.unwrap_or(0));
        }
        Ok(())
    }
}

/// Registers an owner of a descriptor with the runtime's poller.
#[expect(unsafe_code, reason = "tokio leaves it to its caller that the descriptor outlives the registration")]
fn watch<T: Watchable>(owner: T, interest: Interest) -> Result<AsyncFd<T>, AsyncFdRegisterError<T>> {
    // SAFETY: a `Watchable` owns its descriptor from its making to its drop, and always names the same one; the `AsyncFd`
    // owns the `Watchable`.
    unsafe { AsyncFd::register_with_interest(owner, interest) }
}

/// What [`watch`] may be given: it keeps one descriptor open for as long as it lives.
trait Watchable: AsRawFd {}

impl Watchable for File {}

impl Watchable for Stop {}

/// The bytes that an operation moved; `None` if it has to be tried again.
fn transferred(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
