//! Memory for chunks that arrive, used again and again: a fresh MiB costs a page fault for every 4 KiB.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use ds_wire::CHUNK_BYTES;

/// The buffers of one transfer. How many there are at once is bounded by its window, not here.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer of `length` bytes, at most [`CHUNK_BYTES`], with anything in it.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let bytes = self.free().pop().unwrap_or_else(|| vec![0; CHUNK_BYTES]);
        Buffer { bytes, length, home: Arc::downgrade(self) }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One buffer. It goes back when it, or the last slice of what it became, is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Weak<Buffers>,
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
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
        let buffers = Arc::new(Buffers::default());
        let mut first = buffers.take(10);
        first.as_mut().copy_from_slice(b"0123456789");
        let address = first.as_mut().as_ptr();
        let slice = first.freeze().slice(3..5);
        assert_ne!(buffers.take(1).as_mut().as_ptr(), address, "a slice still refers to it");
        assert_eq!(slice, "34");
        drop(slice);
        let mut again = [buffers.take(1), buffers.take(CHUNK_BYTES)];
        assert!(again.iter_mut().any(|buffer| buffer.as_mut().as_ptr() == address));
        drop(buffers);
        drop(again);
    }
}
