//! The part of a task's log that the hub has not acknowledged. Pure.

use bytes::{Bytes, BytesMut};

/// A chunk's largest size.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that may be unacknowledged. Beyond them nobody reads on: Docker keeps the rest.
const LIMIT_BYTES: usize = 1 << 20;

/// Bytes of the log from `acked` on: first those that were sent, then those that were not.
#[derive(Debug, Default)]
pub(super) struct Spool {
    acked: u64,
    sent: usize,
    bytes: BytesMut,
}

impl Spool {
    /// How many more bytes may be added.
    pub(super) fn room(&self) -> usize {
        LIMIT_BYTES.saturating_sub(self.bytes.len())
    }

    /// Where its bytes end: the offset of the next ones that are to be added.
    pub(super) fn end(&self) -> u64 {
        self.acked + self.bytes.len() as u64
    }

    /// Adds the bytes at `offset` of the log, which is not after its end. Those that the hub has or that are here are left
    /// out.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) {
        self.bytes.extend_from_slice(beyond(self.end(), offset, bytes));
    }

    /// The hub has everything before `offset`, and nothing after it. That may be more than was ever sent from here, and it
    /// may be less than the hub said before: then nothing is left here, and what follows has to be added again.
    pub(super) fn ack(&mut self, offset: u64) {
        if let Some(gone) = offset.checked_sub(self.acked) {
            let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.bytes.len());
            let _ = self.bytes.split_to(gone);
            self.sent = self.sent.saturating_sub(gone);
        } else {
            (self.sent, self.bytes) = (0, BytesMut::new());
        }
        self.acked = offset;
    }

    /// The connection is another one: whatever is not acknowledged is sent again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Bytes that were not sent over this connection.
    pub(super) fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The next chunk to send, with its offset; the same one until [`Spool::sent`] is told of it.
    pub(super) fn next_chunk(&self) -> Option<(u64, Bytes)> {
        let length = self.unsent().min(CHUNK_BYTES);
        let offset = self.acked + self.sent as u64;
        let chunk = || Bytes::copy_from_slice(&self.bytes[self.sent..self.sent + length]);
        (length > 0).then(|| (offset, chunk()))
    }

    /// The next chunk, of this many bytes, was handed over.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// Whether the hub has all of a log of `length` bytes.
    pub(super) fn holds_nothing_before(&self, length: u64) -> bool {
        self.acked >= length
    }
}

/// Of the bytes at `offset` of a log those that lie at `start` or after it.
pub(super) fn beyond(start: u64, offset: u64, bytes: &[u8]) -> &[u8] {
    let before = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
    bytes.get(before..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_acknowledged_is_sent_again() {
        let mut spool = Spool::default();
        spool.add(0, b"hello ");
        assert_eq!(spool.next_chunk().unwrap(), (0, Bytes::from("hello ")));
        spool.sent(6);
        assert_eq!(spool.next_chunk(), None);
        spool.ack(2);
        spool.add(6, b"world");
        spool.rewind();
        assert_eq!(spool.next_chunk().unwrap(), (2, Bytes::from("llo world")));
        spool.ack(11);
        assert!(spool.holds_nothing_before(11));
    }

    #[test]
    fn what_the_hub_lost_is_taken_again() {
        let mut spool = Spool::default();
        spool.add(0, b"hello ");
        spool.sent(6);
        spool.ack(4);
        spool.ack(1);
        assert_eq!((spool.end(), spool.unsent()), (1, 0));
        spool.add(0, b"hello ");
        assert_eq!(spool.next_chunk().unwrap(), (1, Bytes::from("ello ")));
    }

    #[test]
    fn what_the_hub_has_is_not_kept_when_read_again() {
        let mut spool = Spool::default();
        spool.ack(8);
        spool.add(0, b"hello ");
        assert_eq!(spool.unsent(), 0);
        spool.add(6, b"world");
        assert_eq!(spool.next_chunk().unwrap(), (8, Bytes::from("rld")));
    }

    #[test]
    fn chunks_and_memory_are_bounded() {
        let mut spool = Spool::default();
        spool.add(0, &vec![7; LIMIT_BYTES]);
        assert_eq!(spool.room(), 0);
        let (offset, chunk) = spool.next_chunk().unwrap();
        assert_eq!((offset, chunk.len()), (0, CHUNK_BYTES));
        spool.sent(CHUNK_BYTES);
        assert_eq!(spool.next_chunk().unwrap().0, CHUNK_BYTES as u64);
        spool.ack(CHUNK_BYTES as u64);
        assert_eq!(spool.room(), CHUNK_BYTES);
    }
}
