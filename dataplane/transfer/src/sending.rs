//! The sending end: `zfs send` → blockio → [`ds_wire::Sender`] → one unidirectional stream per chunk, on whichever lane is
//! free.

use std::{collections::HashMap, os::fd::OwnedFd};

use bytes::Bytes;
use ds_blockio::BlockReader;
use ds_link::Link;
use ds_proto::v1::{Holding, SignedReceipt, transfer_control::Message};
use ds_wire::{CHUNK_BYTES, Chunk, Fin, Lane, Sender};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::{
    Error, Result,
    exchange::{End, Exchange, Heard, PIPE_DEPTH, ack_from_proto, fin_to_proto, let_in, stalled},
    joins::{Join, JoinKind},
};

/// Chunks that are handed to a lane at once. More would only wait in its buffer.
const CHUNKS_AT_ONCE: usize = 2;

/// What was sent, and the receiver's word that it has it.
pub(crate) struct Sent {
    pub(crate) fin: Fin,
    pub(crate) receipt: SignedReceipt,
}

/// Sends the stream of `source` within the receiver's window and waits for the receipt. On an error its process is
/// killed; telling the other end is up to the caller.
pub(crate) async fn send(
    exchange: &mut Exchange<'_>,
    source: ds_zfs::Sending,
    window_bytes: u64,
) -> Result<Sent> {
    let ds_zfs::Sending { stdout, process } = source;
    // The end is only said of a stream that ZFS says is whole.
    let whole = async { Ok(process.finish().await?) };
    send_from(exchange, stdout, whole, window_bytes).await
}

/// The same for any stream: all of `pipe`, of which `whole` says whether it is whole once it has ended.
pub(crate) async fn send_from(
    exchange: &mut Exchange<'_>,
    pipe: OwnedFd,
    whole: impl Future<Output = Result<()>>,
    window_bytes: u64,
) -> Result<Sent> {
    let reader = exchange.io.reader(pipe, CHUNK_BYTES, PIPE_DEPTH).map_err(Error::Pipe)?;
    let mut sending = Sending::new(Sender::new(exchange.transfer, window_bytes)?, reader);
    sending.add_lane(exchange.link.clone());
    sending.run(exchange, Until::Read).await?;
    whole.await?;
    let fin = sending.sender.finish();
    if let Err(error) = exchange.tell(fin_to_proto(fin)).await {
        sending.come_back(exchange, error).await?;
    }
    sending.run(exchange, Until::Receipt).await?;
    let receipt = sending.receipt.expect("it ran until the receipt was here");
    Ok(Sent { fin, receipt })
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The pipe has ended and all of it is in the sender.
    Read,
    /// Everything is acknowledged, and the receipt is here.
    Receipt,
}

struct Sending {
    sender: Sender,
    reader: BlockReader,
    /// Read, and not yet within the window.
    piece: Bytes,
    ended: bool,
    lanes: HashMap<Lane, Busy>,
    next_lane: u32,
    /// Chunks that are being written, and lanes that will end some time.
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// After the link was lost, nothing is sent before the receiver has said what it holds.
    waits_for_holding: bool,
    receipt: Option<SignedReceipt>,
    moved: Instant,
}

struct Busy {
    link: Link,
    chunks: usize,
}

enum Event {
    Written(Lane, Result<()>),
    Ended(Lane),
}

impl Sending {
    fn new(sender: Sender, reader: BlockReader) -> Self {
        Self {
            sender,
            reader,
            piece: Bytes::new(),
            ended: false,
            lanes: HashMap::new(),
            next_lane: 0,
            events: FuturesUnordered::new(),
            waits_for_holding: false,
            receipt: None,
            moved: Instant::now(),
        }
    }

    async fn run(&mut self, exchange: &mut Exchange<'_>, until: Until) -> Result<()> {
        while !self.is_through(until) {
            if !self.piece.is_empty() {
                self.sender.push(&mut self.piece);
            }
            self.fill_lanes();
            if self.is_through(until) {
                break;
            }
            let wants_more = !self.ended && self.piece.is_empty() && self.sender.room() > 0;
            let cancel = exchange.cancel;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Cancelled),
                heard = exchange.heard() => match heard {
                    Heard::Said(Ok(message)) => self.hear(exchange, message)?,
                    Heard::Said(Err(error)) => self.come_back(exchange, error).await?,
                    Heard::Join(join) => self.take_in(exchange, join).await,
                },
                Some(event) = self.events.next() => self.handle(event)?,
                piece = self.reader.next(), if wants_more => self.take(piece)?,
                error = stalled(self.moved) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_through(&self, until: Until) -> bool {
        match until {
            Until::Read => self.ended && self.piece.is_empty(),
            Until::Receipt => self.sender.is_done() && self.receipt.is_some(),
        }
    }

    /// Gives each lane that is free the next chunk.
    fn fill_lanes(&mut self) {
        if self.waits_for_holding {
            return;
        }
        while let Some((lane, busy)) = self.lanes.iter_mut().min_by_key(|(_, busy)| busy.chunks)
            && busy.chunks < CHUNKS_AT_ONCE
            && let Some(chunk) = self.sender.next_chunk(*lane)
        {
            busy.chunks += 1;
            let (lane, link) = (*lane, busy.link.clone());
            let writing = busy.link.spawn(write(link, chunk));
            self.events.push(Box::pin(async move {
                let written = writing.await.unwrap_or(Err(Error::Cancelled));
                Event::Written(lane, written)
            }));
        }
    }

    fn add_lane(&mut self, link: Link) {
        let lane = Lane(self.next_lane);
        self.next_lane += 1;
        self.lanes.insert(lane, Busy { link: link.clone(), chunks: 0 });
        self.events.push(Box::pin(async move {
            link.closed().await;
            Event::Ended(lane)
        }));
    }

    async fn take_in(&mut self, exchange: &mut Exchange<'_>, mut join: Join) {
        // What the dialling end brings itself was let in by the other.
        if exchange.end == End::Acceptor && let_in(&mut join).await.is_err() {
            return;
        }
        match join.kind {
            JoinKind::Rejoin => self.go_on_over(exchange, join).await,
            JoinKind::Lane => self.add_lane(join.link),
        }
    }

    /// The link with the control stream is gone: waits for another. Its chunks are sent again, less what the receiver holds.
    async fn come_back(&mut self, exchange: &mut Exchange<'_>, lost: Error) -> Result<()> {
        let join = exchange.rejoin(lost).await?;
        self.go_on_over(exchange, join).await;
        Ok(())
    }

    async fn go_on_over(&mut self, exchange: &mut Exchange<'_>, join: Join) {
        exchange.adopt(join.link.clone(), join.control);
        let closed: Vec<_> =
            self.lanes.iter().filter(|(_, l)| l.link.is_closed()).map(|(lane, _)| *lane).collect();
        for lane in closed {
            self.lose(lane);
        }
        self.waits_for_holding = true;
        self.moved = Instant::now();
        self.add_lane(join.link);
        if let Some(fin) = self.sender.fin() {
            // If this link is lost as well, listening to it says so.
            let _ = exchange.tell(fin_to_proto(fin)).await;
        }
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Written(lane, Ok(())) => {
                if let Some(busy) = self.lanes.get_mut(&lane) {
                    busy.chunks -= 1;
                }
            }
            Event::Written(lane, Err(error)) => {
                let gone = self.lanes.get(&lane).is_none_or(|busy| busy.link.is_closed());
                if !gone {
                    return Err(error);
                }
                self.lose(lane);
            }
            Event::Ended(lane) => self.lose(lane),
        }
        Ok(())
    }

    fn lose(&mut self, lane: Lane) {
        if self.lanes.remove(&lane).is_some() {
            self.sender.lane_lost(lane);
        }
    }

    fn take(&mut self, piece: Option<std::io::Result<Bytes>>) -> Result<()> {
        self.moved = Instant::now();
        match piece {
            Some(piece) => self.piece = piece.map_err(Error::Pipe)?,
            None => self.ended = true,
        }
        Ok(())
    }

    fn hear(&mut self, exchange: &Exchange<'_>, message: Message) -> Result<()> {
        self.moved = Instant::now();
        let peer = exchange.link.peer();
        match message {
            Message::Ack(ack) => {
                self.sender.acknowledge(ack_from_proto(ack))?;
                exchange.report(self.sender.acknowledged().bytes);
                Ok(())
            }
            Message::Holding(Holding { written, ahead }) => {
                self.sender.acknowledge(ack_from_proto(written.unwrap_or_default()))?;
                self.sender.held(&ahead);
                self.waits_for_holding = false;
                Ok(())
            }
            Message::Receipt(receipt) if self.sender.is_done() => {
                self.receipt = Some(receipt);
                Ok(())
            }
            Message::Receipt(_) => Err(Error::protocol(peer, "a receipt for what it has not acknowledged")),
            Message::Fin(_) => Err(Error::protocol(peer, "it ends a stream that it receives")),
            Message::Abort(abort) => Err(Error::aborted(peer, abort)),
        }
    }
}

async fn write(link: Link, chunk: Chunk) -> Result<()> {
    let mut stream = link.open_chunk().await?;
    stream.write(Bytes::copy_from_slice(&chunk.header().encode())).await?;
    stream.write(chunk.into_payload()).await?;
    Ok(stream.finish()?)
}
