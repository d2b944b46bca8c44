//! Tells a thread that its owner is gone, in a way that it can wait for together with a descriptor.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::pipe::{PipeFlags, pipe_with};

/// The owner's half. Dropping it is the signal.
#[derive(Debug)]
pub(crate) struct Owner {
    _writing_end: OwnedFd,
}

/// The thread's half: readable (hung up) as soon as the owner is gone.
#[derive(Debug)]
pub(crate) struct Stop(OwnedFd);

pub(crate) fn pair() -> io::Result<(Owner, Stop)> {
    // Close-on-exec: in a child process the writing end would outlive the owner.
    let (reading_end, writing_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Owner { _writing_end: writing_end }, Stop(reading_end)))
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Stop {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What a stopped thread ends with. Nobody is left to see it.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the reader or writer was dropped")
}
