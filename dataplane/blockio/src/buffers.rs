//! Memory for blocks, used again and again: a fresh MiB costs a page fault for every 4 KiB.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

/// Buffers of one size. How many there are at once is bounded by whoever takes them, not here.
///
/// The one that came back last is taken first: it is the likeliest to be in a cache.
#[derive(Debug)]
pub struct Buffers {
    buffer_bytes: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Of `buffer_bytes` each.
    pub fn new(buffer_bytes: usize) -> Arc<Self> {
        Arc::new(Self { buffer_bytes, free: Mutex::default() })
    }

    /// A buffer of `length` bytes, at most as large as all are, with anything in it.
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        debug_assert!(length <= self.buffer_bytes, "no buffer is that long");
        let bytes = self.free().pop().unwrap_or_else(|| vec![0; self.buffer_bytes]);
        Buffer { bytes, length, home: Arc::downgrade(self) }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One buffer. It goes back when it, or the last slice of what it became, is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Weak<Buffers>,
}

impl Buffer {
    /// Its first bytes from now on, at most as many as it had.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// As what can be shared and sliced.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.free().push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_reads_it() {
        let buffers = Buffers::new(16);
        let mut first = buffers.take(10);
        first.as_mut().copy_from_slice(b"0123456789");
        let address = first.as_ref().as_ptr();
        let slice = first.freeze().slice(3..5);
        assert_ne!(buffers.take(1).as_ref().as_ptr(), address, "a slice still refers to it");
        assert_eq!(slice, "34");
        drop(slice);
        let again = buffers.take(16);
        assert_eq!(again.as_ref().as_ptr(), address, "the last to come back is the first to go");
        drop(buffers);
        drop(again);
    }

    #[test]
    fn a_shorter_buffer_is_whole_when_it_is_taken_again() {
        let buffers = Buffers::new(16);
        let mut buffer = buffers.take(16);
        buffer.truncate(3);
        assert_eq!(buffer.freeze().len(), 3);
        assert_eq!(buffers.take(16).as_ref().len(), 16);
    }
}
