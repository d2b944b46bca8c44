use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{Ack, Chunk, ChunkHeader, Error, FULL_CHUNK, Fin, StreamDigest, TransferId, check_window};

/// What to do with a chunk that has announced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is missing here.
    New,
    /// It is here already: its payload need not be read.
    Duplicate,
}

/// The receiving end of one transfer.
///
/// Whatever it holds, and whatever it handed out that is not written yet, lies within one window of bytes after the last
/// acknowledgement; a chunk beyond that is refused. After an error the bytes handed out so far are still a prefix of the
/// stream, but the transfer is over.
#[derive(Debug)]
pub struct Receiver {
    transfer: TransferId,
    chunk_bytes: u64,
    window_bytes: u64,
    /// Arrived ahead of a missing one, by index.
    ahead: BTreeMap<u64, Chunk>,
    /// In order, not handed out yet.
    ready: VecDeque<Bytes>,
    /// What is here without a gap.
    received: Ack,
    /// Over the chunks in `received`.
    digest: StreamDigest,
    handed_out_bytes: u64,
    acked: Ack,
    /// Where the stream ends: known from its short chunk or from its [`Fin`], whichever came first.
    end: Option<Ack>,
    fin: Option<Fin>,
    duplicates: u64,
}

impl Receiver {
    /// Expects a stream, within a window of this many bytes.
    ///
    /// Fails if the window holds no chunk.
    pub fn new(transfer: TransferId, window_bytes: u64) -> Result<Self, Error> {
        Self::with_chunks_of(FULL_CHUNK, transfer, window_bytes)
    }

    pub(crate) fn with_chunks_of(
        chunk_bytes: u64,
        transfer: TransferId,
        window_bytes: u64,
    ) -> Result<Self, Error> {
        check_window(window_bytes, chunk_bytes)?;
        Ok(Self {
            transfer,
            chunk_bytes,
            window_bytes,
            ahead: BTreeMap::new(),
            ready: VecDeque::new(),
            received: Ack::default(),
            digest: StreamDigest::new(),
            handed_out_bytes: 0,
            acked: Ack::default(),
            end: None,
            fin: None,
            duplicates: 0,
        })
    }

    /// Says whether a chunk may come, before its payload is read into memory.
    pub fn check(&self, header: &ChunkHeader) -> Result<Admission, Error> {
        let &ChunkHeader { transfer, index, offset, .. } = header;
        let length = u64::from(header.length);
        if transfer != self.transfer {
            return Err(Error::OtherTransfer { expected: self.transfer, found: transfer });
        }
        if length == 0 || length > self.chunk_bytes {
            return Err(Error::Length { length, most: self.chunk_bytes });
        }
        if index.checked_mul(self.chunk_bytes) != Some(offset) {
            return Err(Error::Offset { index, offset });
        }
        if index < self.received.chunks || self.ahead.contains_key(&index) {
            return Ok(Admission::Duplicate);
        }
        self.check_end(header)?;
        let limit = self.acked.bytes.saturating_add(self.window_bytes);
        if header.end() > limit {
            return Err(Error::TooFarAhead { index, end: header.end(), limit });
        }
        Ok(Admission::New)
    }

    /// Takes a chunk in, in any order. A duplicate is counted and dropped.
    pub fn accept(&mut self, chunk: Chunk) -> Result<Admission, Error> {
        let header = *chunk.header();
        if self.check(&header)? == Admission::Duplicate {
            self.duplicates += 1;
            return Ok(Admission::Duplicate);
        }
        if u64::from(header.length) < self.chunk_bytes {
            self.end = Some(Ack { chunks: header.index + 1, bytes: header.end() });
        }
        self.ahead.insert(header.index, chunk);
        while let Some(chunk) = self.ahead.remove(&self.received.chunks) {
            self.digest.add(&chunk.header().digest);
            self.received = Ack { chunks: self.received.chunks + 1, bytes: chunk.header().end() };
            self.ready.push_back(chunk.into_payload());
        }
        self.check_whole()?;
        Ok(Admission::New)
    }

    /// Takes the end of the stream in; it may come before the last chunks, and again after a reconnection.
    pub fn fin(&mut self, fin: Fin) -> Result<(), Error> {
        let end = Ack { chunks: fin.chunks, bytes: fin.bytes };
        let least = self.ahead.last_key_value().map_or(self.received.chunks, |(index, _)| index + 1);
        let contradicts =
            self.end.is_some_and(|known| known != end) || self.fin.is_some_and(|known| known != fin);
        if contradicts || fin.chunks != fin.bytes.div_ceil(self.chunk_bytes) || fin.chunks < least {
            return Err(self.end_mismatch(fin));
        }
        self.end = Some(end);
        self.fin = Some(fin);
        self.check_whole()
    }

    /// The next bytes of the stream in order, one chunk at a time; `None` while the next chunk is missing.
    pub fn next_bytes(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.handed_out_bytes += bytes.len() as u64;
        Some(bytes)
    }

    /// Notes that the first `total_bytes` of the stream are written. Gives the acknowledgement to send, if that
    /// completed a chunk.
    pub fn written(&mut self, total_bytes: u64) -> Option<Ack> {
        assert!(total_bytes <= self.handed_out_bytes, "only what was handed out can have been written");
        let ack = match self.end {
            Some(end) if end.bytes == total_bytes => end,
            _ => {
                let chunks = total_bytes / self.chunk_bytes;
                Ack { chunks, bytes: chunks * self.chunk_bytes }
            }
        };
        if ack.chunks <= self.acked.chunks {
            return None;
        }
        self.acked = ack;
        Some(ack)
    }

    /// The last acknowledgement: what a sender needs to hear after a reconnection.
    pub fn acknowledged(&self) -> Ack {
        self.acked
    }

    /// The chunks that are here and not acknowledged: what a sender need not send again.
    pub fn held(&self) -> impl Iterator<Item = u64> {
        (self.acked.chunks..self.received.chunks).chain(self.ahead.keys().copied())
    }

    /// Whether all of the stream arrived and is what the sender sent. Not all of it need be handed out or written.
    pub fn is_complete(&self) -> bool {
        self.fin.is_some_and(|fin| fin.chunks == self.received.chunks)
    }

    /// Whether all of the stream arrived, is what the sender sent, and is written.
    pub fn is_done(&self) -> bool {
        self.is_complete() && self.acked == self.received
    }

    /// Chunks that arrived more than once.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Bytes in memory here.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> u64 {
        let ahead: u64 = self.ahead.values().map(|chunk| chunk.payload().len() as u64).sum();
        ahead + self.received.bytes - self.handed_out_bytes
    }

    /// Only the last chunk may be short, and none follows it.
    fn check_end(&self, header: &ChunkHeader) -> Result<(), Error> {
        let (index, length) = (header.index, u64::from(header.length));
        let fits = match self.end {
            Some(end) if index + 1 < end.chunks => length == self.chunk_bytes,
            Some(end) => index + 1 == end.chunks && header.end() == end.bytes,
            None => {
                length == self.chunk_bytes
                    || self.ahead.last_key_value().is_none_or(|(last, _)| *last < index)
            }
        };
        if fits {
            return Ok(());
        }
        let end = self.end.unwrap_or(Ack { chunks: index + 1, bytes: header.end() });
        Err(Error::BeyondEnd { index, length, chunks: end.chunks, bytes: end.bytes })
    }

    /// Once every chunk is here: is it the stream that was sent?
    fn check_whole(&self) -> Result<(), Error> {
        let Some(fin) = self.fin.filter(|fin| fin.chunks == self.received.chunks) else { return Ok(()) };
        if fin.bytes != self.received.bytes {
            return Err(self.end_mismatch(fin));
        }
        let found = self.digest.value();
        if found != fin.digest {
            return Err(Error::StreamDigest { expected: fin.digest, found });
        }
        Ok(())
    }

    fn end_mismatch(&self, fin: Fin) -> Error {
        let found = self.end.unwrap_or(self.received);
        let (chunks, bytes) = (fin.chunks, fin.bytes);
        Error::EndMismatch { chunks, bytes, found_chunks: found.chunks, found_bytes: found.bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Digest, Digester, Lane, Sender};

    const TRANSFER: TransferId = TransferId([9; 16]);

    fn receiver(window_bytes: u64) -> Receiver {
        Receiver::with_chunks_of(4, TRANSFER, window_bytes).unwrap()
    }

    /// The chunks and the end of a stream cut into pieces of 4 bytes.
    fn stream(text: &'static str) -> (Vec<Chunk>, Fin) {
        let mut sender = Sender::with_chunks_of(4, TRANSFER, 1000).unwrap();
        sender.push(&mut Bytes::from_static(text.as_bytes()));
        let fin = sender.finish();
        (std::iter::from_fn(|| sender.next_chunk(Lane(0))).collect(), fin)
    }

    #[test]
    fn chunks_in_any_order_come_out_in_order() {
        let (chunks, fin) = stream("aaaabbbbccccd");
        let mut receiver = receiver(100);
        for index in [2, 0, 3] {
            assert_eq!(receiver.accept(chunks[index].clone()), Ok(Admission::New));
        }
        assert_eq!(receiver.next_bytes().unwrap(), "aaaa");
        assert_eq!(receiver.next_bytes(), None);
        receiver.fin(fin).unwrap();
        assert!(!receiver.is_complete());
        receiver.accept(chunks[1].clone()).unwrap();
        assert!(receiver.is_complete());
        let rest: Vec<_> = std::iter::from_fn(|| receiver.next_bytes()).collect();
        assert_eq!(rest, ["bbbb", "cccc", "d"]);
        assert!(!receiver.is_done());
        assert_eq!(receiver.written(11), Some(Ack { chunks: 2, bytes: 8 }));
        assert_eq!(receiver.written(12), Some(Ack { chunks: 3, bytes: 12 }));
        assert_eq!(receiver.written(12), None);
        assert_eq!(receiver.written(13), Some(Ack { chunks: 4, bytes: 13 }));
        assert!(receiver.is_done());
    }

    #[test]
    fn duplicates_are_counted_and_dropped() {
        let (chunks, _) = stream("aaaabbbb");
        let mut receiver = receiver(100);
        for index in [1, 1, 0, 0, 1] {
            receiver.accept(chunks[index].clone()).unwrap();
        }
        assert_eq!(receiver.duplicates(), 3);
        assert_eq!(receiver.check(chunks[0].header()), Ok(Admission::Duplicate));
    }

    #[test]
    fn a_chunk_beyond_the_window_is_refused_until_there_is_room() {
        let (chunks, _) = stream("aaaabbbbcccc");
        let mut receiver = receiver(8);
        let refused = receiver.accept(chunks[2].clone());
        assert_eq!(refused, Err(Error::TooFarAhead { index: 2, end: 12, limit: 8 }));
        receiver.accept(chunks[0].clone()).unwrap();
        receiver.next_bytes();
        assert!(receiver.accept(chunks[2].clone()).is_err(), "handed out is not written");
        receiver.written(4);
        receiver.accept(chunks[2].clone()).unwrap();
    }

    #[test]
    fn chunks_that_are_not_of_this_stream_are_refused() {
        let (chunks, _) = stream("aaaabbbbcccc");
        let receiver = receiver(100);
        let header = *chunks[1].header();
        let check = |header| receiver.check(&header).unwrap_err();
        let other = TransferId([8; 16]);
        assert!(matches!(check(ChunkHeader { transfer: other, ..header }), Error::OtherTransfer { .. }));
        assert!(matches!(check(ChunkHeader { offset: 5, ..header }), Error::Offset { .. }));
        assert!(matches!(check(ChunkHeader { index: u64::MAX, ..header }), Error::Offset { .. }));
        assert!(matches!(check(ChunkHeader { length: 5, ..header }), Error::Length { .. }));
        assert!(matches!(check(ChunkHeader { length: 0, ..header }), Error::Length { .. }));
    }

    #[test]
    fn only_the_last_chunk_may_be_short() {
        let (chunks, _) = stream("aaaabbbbcccc");
        let (short, short_fin) = stream("aaaabb");
        let mut ahead = receiver(100);
        ahead.accept(chunks[2].clone()).unwrap();
        assert!(matches!(ahead.accept(short[1].clone()), Err(Error::BeyondEnd { index: 1, .. })));
        let mut after = receiver(100);
        after.accept(short[1].clone()).unwrap();
        assert!(matches!(after.accept(chunks[2].clone()), Err(Error::BeyondEnd { index: 2, .. })));
        let mut told = receiver(100);
        told.fin(short_fin).unwrap();
        assert!(matches!(told.accept(chunks[1].clone()), Err(Error::BeyondEnd { index: 1, .. })));
        assert!(matches!(told.accept(chunks[2].clone()), Err(Error::BeyondEnd { index: 2, .. })));
    }

    #[test]
    fn an_end_that_contradicts_the_chunks_is_refused() {
        let (chunks, fin) = stream("aaaabbbb");
        let mut receiver = receiver(100);
        receiver.accept(chunks[0].clone()).unwrap();
        receiver.accept(chunks[1].clone()).unwrap();
        for wrong in [Fin { chunks: 1, bytes: 4, ..fin }, Fin { chunks: 3, ..fin }, Fin { bytes: 7, ..fin }] {
            assert!(matches!(receiver.clone_state().fin(wrong), Err(Error::EndMismatch { .. })), "{wrong:?}");
        }
        let swapped = Fin { digest: Digest([0; 16]), ..fin };
        assert!(matches!(receiver.clone_state().fin(swapped), Err(Error::StreamDigest { .. })));
        receiver.fin(fin).unwrap();
        receiver.fin(fin).unwrap();
        assert!(receiver.fin(swapped).is_err(), "another end than before");
    }

    #[test]
    fn an_empty_stream_is_complete_with_its_end() {
        let (_, fin) = stream("");
        let mut receiver = receiver(4);
        assert!(!receiver.is_done());
        receiver.fin(fin).unwrap();
        assert!(receiver.is_done());
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_leave_its_window(
            headers in prop::collection::vec((0..8_u64, 0..40_u64, 0..6_u32, any::<bool>()), 0..40),
        ) {
            let mut receiver = receiver(12);
            for (index, offset, length, aligned) in headers {
                let offset = if aligned { index * 4 } else { offset };
                let payload = Bytes::from(vec![0; length as usize]);
                let _ = receiver.accept(Chunk::seal(TRANSFER, &Digester::new(TRANSFER), index, offset, payload));
                prop_assert!(receiver.held_bytes() <= 12);
            }
        }
    }

    impl Receiver {
        fn clone_state(&self) -> Self {
            Self {
                ahead: self.ahead.clone(),
                ready: self.ready.clone(),
                digest: self.digest.clone(),
                ..*self
            }
        }
    }
}
