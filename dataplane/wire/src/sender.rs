use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::{Ack, Chunk, Digester, Error, FULL_CHUNK, Fin, StreamDigest, TransferId, check_window};

/// One of the connections that carry a transfer's chunks; the driver numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u32);

/// The sending end of one transfer.
///
/// It keeps every byte until it is acknowledged, and takes no more of them than the receiver's window: that is both the
/// bound of its memory and the receiver's. Whoever has more to push waits for an acknowledgement.
#[derive(Debug)]
pub struct Sender {
    transfer: TransferId,
    digester: Digester,
    chunk_bytes: u64,
    window_bytes: u64,
    /// Bytes at the end of what was pushed that do not fill a chunk yet.
    partial: BytesMut,
    /// Unacknowledged chunks, from index `acked.chunks` on, each with the lane that has it.
    chunks: VecDeque<(Chunk, Option<Lane>)>,
    /// Indices in `chunks` that no lane has. The lowest goes first, so what comes back overtakes what is new.
    waiting: BTreeSet<u64>,
    acked: Ack,
    /// Bytes that were cut into chunks.
    cut_bytes: u64,
    /// Chunks that were handed to a lane at least once.
    sent: u64,
    digest: StreamDigest,
    fin: Option<Fin>,
}

impl Sender {
    /// Starts a stream towards a receiver with this window.
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
            digester: Digester::new(transfer),
            chunk_bytes,
            window_bytes,
            partial: BytesMut::new(),
            chunks: VecDeque::new(),
            waiting: BTreeSet::new(),
            acked: Ack::default(),
            cut_bytes: 0,
            sent: 0,
            digest: StreamDigest::new(),
            fin: None,
        })
    }

    /// How many more bytes [`Sender::push`] takes before something is acknowledged.
    pub fn room(&self) -> u64 {
        let unacknowledged = self.cut_bytes + self.partial.len() as u64 - self.acked.bytes;
        self.window_bytes.saturating_sub(unacknowledged)
    }

    /// Uses no more of the receiver's window than this from now on. What is beyond it already stays.
    pub fn narrow(&mut self, window_bytes: u64) {
        self.window_bytes = self.window_bytes.min(window_bytes.max(self.chunk_bytes));
    }

    /// Takes as much from the front of `bytes` as there is [`room`](Sender::room) for, and leaves the rest.
    ///
    /// A piece that starts where a chunk starts and fills it is not copied. Digests each chunk that got full.
    pub fn push(&mut self, bytes: &mut Bytes) {
        assert!(self.fin.is_none(), "nothing is pushed after the end");
        let mut left = self.room().min(bytes.len() as u64);
        while left > 0 {
            let missing = self.chunk_bytes - self.partial.len() as u64;
            let taken = missing.min(left);
            left -= taken;
            let piece = bytes.split_to(as_len(taken));
            if taken == self.chunk_bytes {
                self.cut(piece);
                continue;
            }
            if self.partial.is_empty() {
                self.partial = BytesMut::with_capacity(as_len(self.chunk_bytes));
            }
            self.partial.extend_from_slice(&piece);
            if taken == missing {
                let full = std::mem::take(&mut self.partial).freeze();
                self.cut(full);
            }
        }
    }

    /// Ends the stream: what is left becomes the last chunk. The [`Fin`] may be sent at once, even before the chunks.
    pub fn finish(&mut self) -> Fin {
        if let Some(fin) = self.fin {
            return fin;
        }
        if !self.partial.is_empty() {
            let last = std::mem::take(&mut self.partial).freeze();
            self.cut(last);
        }
        *self.fin.insert(Fin {
            bytes: self.cut_bytes,
            chunks: self.cut_chunks(),
            digest: self.digest.value(),
        })
    }

    /// The end of the stream, once [`Sender::finish`] was called.
    pub fn fin(&self) -> Option<Fin> {
        self.fin
    }

    /// The next chunk for a lane that is free; the first one that no lane has. `None`: wait for bytes, or for the end.
    pub fn next_chunk(&mut self, lane: Lane) -> Option<Chunk> {
        let index = self.waiting.pop_first()?;
        let at = as_len(index - self.acked.chunks);
        let (chunk, holder) = &mut self.chunks[at];
        *holder = Some(lane);
        self.sent = self.sent.max(index + 1);
        Some(chunk.clone())
    }

    /// Takes back what a lane had and is not acknowledged; it goes out first, over whichever lane asks next.
    ///
    /// Some of it may have arrived. The receiver knows what it has and ignores it.
    pub fn lane_lost(&mut self, lane: Lane) {
        for (chunk, holder) in &mut self.chunks {
            if *holder == Some(lane) {
                *holder = None;
                self.waiting.insert(chunk.header().index);
            }
        }
    }

    /// Notes chunks that the receiver has, ahead of what it has written: no lane needs to take them. What was never sent is not
    /// believed.
    pub fn held(&mut self, ahead: &[u64]) {
        for index in ahead.iter().filter(|index| **index < self.sent) {
            self.waiting.remove(index);
        }
    }

    /// Lets go of what the receiver has written. An acknowledgement that says less than an earlier one changes nothing.
    pub fn acknowledge(&mut self, ack: Ack) -> Result<(), Error> {
        if ack.chunks <= self.acked.chunks && ack.bytes <= self.acked.bytes {
            return Ok(());
        }
        let refused = Error::Ack { chunks: ack.chunks, bytes: ack.bytes, sent: self.sent };
        if ack.chunks <= self.acked.chunks || ack.chunks > self.sent {
            return Err(refused);
        }
        let freed = as_len(ack.chunks - self.acked.chunks);
        if self.chunks[freed - 1].0.header().end() != ack.bytes {
            return Err(refused);
        }
        self.chunks.drain(..freed);
        self.waiting = self.waiting.split_off(&ack.chunks);
        self.acked = ack;
        Ok(())
    }

    /// How far the receiver has written, by its last acknowledgement.
    pub fn acknowledged(&self) -> Ack {
        self.acked
    }

    /// Whether the stream has ended and all of it is acknowledged.
    pub fn is_done(&self) -> bool {
        self.fin.is_some_and(|fin| fin.chunks == self.acked.chunks)
    }

    fn cut(&mut self, payload: Bytes) {
        let (index, length) = (self.cut_chunks(), payload.len() as u64);
        let chunk = Chunk::seal(self.transfer, &self.digester, index, self.cut_bytes, payload);
        self.digest.add(&chunk.header().digest);
        self.chunks.push_back((chunk, None));
        self.waiting.insert(index);
        self.cut_bytes += length;
    }

    fn cut_chunks(&self) -> u64 {
        self.acked.chunks + self.chunks.len() as u64
    }
}

/// A count of something that is in memory.
fn as_len(count: u64) -> usize {
    usize::try_from(count).expect("what is in memory can be addressed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(window_bytes: u64) -> Sender {
        Sender::with_chunks_of(4, TransferId([1; 16]), window_bytes).unwrap()
    }

    fn push(sender: &mut Sender, text: &'static str) -> Bytes {
        let mut bytes = Bytes::from_static(text.as_bytes());
        sender.push(&mut bytes);
        bytes
    }

    fn drain(sender: &mut Sender, lane: u32) -> Vec<(u64, Bytes)> {
        std::iter::from_fn(|| sender.next_chunk(Lane(lane)))
            .map(|chunk| (chunk.header().index, chunk.into_payload()))
            .collect()
    }

    #[test]
    fn pieces_become_chunks_whatever_their_sizes() {
        let mut sender = sender(100);
        for piece in ["a", "bcd", "efgh", "ijklmnop", "qr"] {
            assert!(push(&mut sender, piece).is_empty());
        }
        let fin = sender.finish();
        assert_eq!((fin.bytes, fin.chunks), (18, 5));
        let payloads: Vec<_> = drain(&mut sender, 0).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(payloads, ["abcd", "efgh", "ijkl", "mnop", "qr"]);
    }

    #[test]
    fn a_piece_that_fills_a_chunk_is_not_copied() {
        let mut sender = sender(100);
        let bytes = Bytes::from(b"abcdefgh".to_vec());
        sender.push(&mut bytes.clone());
        sender.next_chunk(Lane(0));
        assert_eq!(sender.next_chunk(Lane(0)).unwrap().payload().as_ptr(), bytes[4..].as_ptr());
    }

    #[test]
    fn the_window_bounds_what_is_taken_until_it_is_acknowledged() {
        let mut sender = sender(6);
        assert_eq!(push(&mut sender, "abcdefghij"), "ghij");
        assert_eq!((sender.room(), drain(&mut sender, 0).len()), (0, 1));
        sender.acknowledge(Ack { chunks: 1, bytes: 4 }).unwrap();
        assert_eq!(sender.room(), 4);
        assert_eq!(push(&mut sender, "ghij"), "");
        assert_eq!(drain(&mut sender, 0), [(1, Bytes::from_static(b"efgh"))]);
    }

    #[test]
    fn what_a_lost_lane_had_goes_out_first() {
        let mut sender = sender(100);
        push(&mut sender, "aaaabbbbccccdddd");
        sender.next_chunk(Lane(0)).unwrap();
        sender.next_chunk(Lane(1)).unwrap();
        sender.next_chunk(Lane(0)).unwrap();
        sender.acknowledge(Ack { chunks: 1, bytes: 4 }).unwrap();
        sender.lane_lost(Lane(0));
        let order: Vec<_> = drain(&mut sender, 1).into_iter().map(|(index, _)| index).collect();
        assert_eq!(order, [2, 3]);
        sender.lane_lost(Lane(1));
        let order: Vec<_> = drain(&mut sender, 0).into_iter().map(|(index, _)| index).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn an_acknowledgement_of_what_came_back_is_taken() {
        let mut sender = sender(100);
        push(&mut sender, "aaaabb");
        sender.finish();
        drain(&mut sender, 0);
        sender.lane_lost(Lane(0));
        sender.acknowledge(Ack { chunks: 2, bytes: 6 }).unwrap();
        assert!(sender.is_done());
        assert!(sender.next_chunk(Lane(1)).is_none());
    }

    #[test]
    fn acknowledgements_are_checked() {
        let mut sender = sender(100);
        push(&mut sender, "aaaabbbbcc");
        sender.next_chunk(Lane(0)).unwrap();
        assert!(sender.acknowledge(Ack { chunks: 2, bytes: 8 }).is_err(), "never sent");
        assert!(sender.acknowledge(Ack { chunks: 1, bytes: 3 }).is_err(), "not at a border");
        assert!(sender.acknowledge(Ack { chunks: 0, bytes: 3 }).is_err(), "bytes of no chunk");
        sender.acknowledge(Ack { chunks: 1, bytes: 4 }).unwrap();
        sender.acknowledge(Ack { chunks: 0, bytes: 0 }).unwrap();
        assert_eq!(sender.acknowledged(), Ack { chunks: 1, bytes: 4 }, "a late one changes nothing");
    }

    #[test]
    fn an_empty_stream_has_an_end() {
        let mut sender = sender(4);
        let fin = sender.finish();
        assert_eq!((fin.bytes, fin.chunks, fin.digest), (0, 0, StreamDigest::new().value()));
        assert!(sender.is_done());
    }

    #[test]
    fn what_the_receiver_holds_is_not_sent_again() {
        let mut sender = sender(100);
        push(&mut sender, "aaaabbbbccccdddd");
        for _ in 0..3 {
            sender.next_chunk(Lane(0)).unwrap();
        }
        sender.lane_lost(Lane(0));
        sender.held(&[1, 2, 3, u64::MAX]);
        let rest: Vec<_> =
            std::iter::from_fn(|| sender.next_chunk(Lane(1))).map(|c| c.header().index).collect();
        assert_eq!(rest, [0, 3], "the last was never sent");
    }

    #[test]
    fn a_narrower_window_waits_until_what_is_beyond_it_is_acknowledged() {
        let mut sender = sender(12);
        sender.push(&mut Bytes::from_static(b"aaaabbbbcccc"));
        while sender.next_chunk(Lane(0)).is_some() {}
        sender.narrow(8);
        assert_eq!(sender.room(), 0);
        sender.acknowledge(Ack { chunks: 1, bytes: 4 }).unwrap();
        assert_eq!(sender.room(), 0);
        sender.acknowledge(Ack { chunks: 2, bytes: 8 }).unwrap();
        assert_eq!(sender.room(), 4);
    }

    #[test]
    fn a_window_without_room_for_a_chunk_is_refused() {
        assert!(matches!(Sender::new(TransferId([0; 16]), FULL_CHUNK - 1), Err(Error::Window { .. })));
    }
}
