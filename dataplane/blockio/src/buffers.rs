use std::collections::VecDeque;

use bytes::Bytes;

/// The buffers of one reader, used again once nobody refers to them any more.
///
/// A fresh buffer of some MiB costs a system call and a page fault for every 4 KiB; one that was used before costs nothing.
#[derive(Debug)]
pub(crate) struct Buffers {
    buffer_bytes: usize,
    /// Handles to what was handed out, oldest first.
    handed_out: VecDeque<Bytes>,
    most: usize,
}

impl Buffers {
    /// Remembers `most` buffers; what is handed out beyond that is freed by whoever has it.
    pub(crate) fn new(buffer_bytes: usize, most: usize) -> Self {
        Self { buffer_bytes, handed_out: VecDeque::new(), most }
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// An empty buffer with room for `buffer_bytes`.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let Some(at) = self.handed_out.iter().position(Bytes::is_unique) else {
            return Vec::with_capacity(self.buffer_bytes);
        };
        let mut buffer = self.handed_out.remove(at).expect("the position was just found");
        // Emptied first, so that the conversion has nothing to move.
        buffer.clear();
        let mut buffer = Vec::from(buffer);
        buffer.reserve_exact(self.buffer_bytes);
        buffer
    }

    /// Gives a filled buffer away.
    pub(crate) fn hand_out(&mut self, buffer: Vec<u8>) -> Bytes {
        let bytes = Bytes::from(buffer);
        if self.handed_out.len() == self.most {
            self.handed_out.pop_front();
        }
        self.handed_out.push_back(bytes.clone());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &mut Buffers) -> Bytes {
        let mut buffer = buffers.take();
        buffer.resize(buffers.buffer_bytes(), 1);
        buffers.hand_out(buffer)
    }

    #[test]
    fn a_buffer_is_used_again_when_all_slices_of_it_are_gone() {
        let mut buffers = Buffers::new(4096, 2);
        let first = filled(&mut buffers);
        let address = first.as_ptr();
        let slice = first.slice(100..200);
        drop(first);
        let fresh = buffers.take();
        assert_ne!(fresh.as_ptr(), address, "a slice still refers to it");
        drop(slice);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (address, 0, 4096));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut buffers = Buffers::new(16, 2);
        let kept: Vec<_> = (0..10).map(|_| filled(&mut buffers)).collect();
        assert_eq!(buffers.handed_out.len(), 2);
        assert!(kept.iter().all(|bytes| bytes.len() == 16));
    }
}
