//! `poll`, then `read` or `write`, on a plain thread.

use std::{io, os::fd::AsFd};

use bytes::{Buf, Bytes};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    buffers::Buffers,
    reader::{Source, is_last},
    stop::{Stop, stopped},
    writer::Sink,
};

/// The whole life of a reading thread.
pub(crate) fn read(source: Source) {
    let Source { fd, mut buffers, blocks, stop } = source;
    loop {
        let block = fill(&fd, &mut buffers, &stop);
        let last = is_last(&block);
        if blocks.blocking_send(block).is_err() || last {
            return;
        }
    }
}

/// Reads until a buffer is full or the end is reached; an empty one is the end.
fn fill(fd: impl AsFd, buffers: &mut Buffers, stop: &Stop) -> io::Result<Bytes> {
    let mut buffer = buffers.take();
    while buffer.len() < buffers.buffer_bytes() {
        wait(&fd, PollFlags::IN, stop)?;
        match rustix::io::read(&fd, spare_capacity(&mut buffer)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(buffers.hand_out(buffer))
}

/// The whole life of a writing thread; closes the descriptor.
pub(crate) fn write(sink: Sink) -> io::Result<()> {
    let Sink { fd, mut queue, written, stop } = sink;
    while let Some(bytes) = queue.blocking_recv() {
        let length = bytes.len() as u64;
        write_all(&fd, bytes, &stop)?;
        written.send_modify(|total| *total += length);
    }
    Ok(())
}

fn write_all(fd: impl AsFd, mut bytes: Bytes, stop: &Stop) -> io::Result<()> {
    while !bytes.is_empty() {
        wait(&fd, PollFlags::OUT, stop)?;
        match rustix::io::write(&fd, &bytes) {
            Ok(length) => bytes.advance(length),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until a descriptor is ready (an error or a closed far end counts: the next call shows which), or its user gone.
fn wait(fd: impl AsFd, events: PollFlags, stop: &Stop) -> io::Result<()> {
    let mut descriptors = [PollFd::new(&fd, events), PollFd::new(stop, PollFlags::IN)];
    loop {
        match poll(&mut descriptors, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if descriptors[1].revents().is_empty() { Ok(()) } else { Err(stopped()) }
}
