//! The sending end: `zfs send` → blockio → [`ds_wire::Sender`] → chunk by chunk over whichever lane is free.

use std::{collections::HashMap, os::fd::OwnedFd, time};

use bytes::Bytes;
use ds_blockio::BlockReader;
use ds_link::{Control, LONG_ROUND_TRIP, Link, Transport};
use ds_proto::v1::{Holding, SignedReceipt, transfer_control::Message};
use ds_wire::{CHUNK_BYTES, Chunk, Digest, Fin, Form, Lane, Sender};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    Error, Result,
    compression::{Compression, zstd},
    exchange::{Exchange, Heard, NEAR_WINDOW_BYTES, ack_from_proto, fin_to_proto},
    joins::{self, Join, Newcomer},
    stall::Watch,
    trial::Trial,
};

/// Chunks that are handed to a lane at once. More would only wait in its buffer.
const CHUNKS_AT_ONCE: usize = 2;

/// Chunks in the receiver's spool that are remembered here: 1 TiB of them. What is beyond is sent.
const MOST_SPOOLED: usize = 1 << 20;

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
    let reader = BlockReader::new(pipe, CHUNK_BYTES).map_err(Error::Pipe)?;
    let is_long =
        exchange.link.transport() == Transport::Quic && exchange.link.round_trip() >= LONG_ROUND_TRIP;
    let used = if is_long { window_bytes } else { window_bytes.min(NEAR_WINDOW_BYTES) };
    let mut sending = Sending::new(Sender::new(exchange.transfer, used)?, reader);
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
    trial: Trial,
    /// What is in the receiver's spool, by index.
    spooled: HashMap<u64, Digest>,
    /// Known with the first block.
    compression: Option<Compression>,
    /// Bytes of the stream that lanes have taken.
    handed_over: u64,
    /// Chunks that are being written, and lanes that will end some time.
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// After the link was lost, nothing is sent before the receiver has said what it holds.
    waits_for_holding: bool,
    receipt: Option<SignedReceipt>,
    watch: Watch,
}

struct Busy {
    link: Link,
    chunks: usize,
}

/// A chunk that its lane has taken.
struct Written {
    bytes: u64,
    /// What travels in their place, where they were to be compressed.
    travels: Option<u64>,
}

enum Event {
    Written(Lane, Result<Written>),
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
            trial: Trial::default(),
            spooled: HashMap::new(),
            compression: None,
            handed_over: 0,
            events: FuturesUnordered::new(),
            waits_for_holding: false,
            receipt: None,
            watch: Watch::new(),
        }
    }

    async fn run(&mut self, exchange: &mut Exchange<'_>, until: Until) -> Result<()> {
        while !self.is_through(until) {
            if !self.piece.is_empty() {
                self.sender.push(&mut self.piece);
            }
            self.try_transports(exchange);
            self.try_compression(exchange);
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
                    Heard::Newcomer(newcomer) => self.take_in(exchange, newcomer).await,
                },
                Some(event) = self.events.next() => self.handle(exchange, event)?,
                piece = self.reader.next(), if wants_more => self.take(piece)?,
                () = self.watch.still() => {
                    let what = if wants_more { "`zfs send` gives nothing" } else { "the receiver takes nothing" };
                    self.watch.look(what).await?;
                }
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

    /// Goes on with finding out which transport moves more.
    fn try_transports(&mut self, exchange: &Exchange<'_>) {
        let arrived = self.sender.acknowledged().bytes;
        let step = self.trial.step(time::Instant::now(), arrived, exchange.moved.carried_by_each());
        let Some(decision) = step else { return };
        if decision.keeps == Transport::Tcp {
            self.sender.narrow(NEAR_WINDOW_BYTES);
        }
        tracing::info!(
            peer = %exchange.link.peer(),
            quic_bytes_per_s = decision.quic.round(),
            tcp_bytes_per_s = decision.tcp.round(),
            "{} moves more here and carries on",
            decision.keeps,
        );
    }

    /// Goes on with finding out whether compression moves more, while nothing else is tried.
    fn try_compression(&mut self, exchange: &Exchange<'_>) {
        if self.trial.is_under_way() {
            return;
        }
        let Some(compression) = &mut self.compression else { return };
        let Some(decision) = compression.step(time::Instant::now(), self.handed_over) else { return };
        tracing::info!(
            peer = %exchange.link.peer(),
            plain_bytes_per_s = decision.plain.round(),
            compressed_bytes_per_s = decision.compressed.round(),
            "{}",
            if decision.pays { "compressed, the stream moves faster" } else { "compression does not pay any more" },
        );
    }

    /// Gives each lane that is free the next chunk. Those of a transport that is not wanted wait, unless there are no others.
    fn fill_lanes(&mut self) {
        if self.waits_for_holding {
            return;
        }
        let trial = &self.trial;
        let is_wanted = |busy: &Busy| trial.wants(busy.link.transport());
        let any_wanted = self.lanes.values().any(is_wanted);
        let carrying = |(_, busy): &(&Lane, &mut Busy)| !any_wanted || is_wanted(busy);
        while let Some((lane, busy)) =
            self.lanes.iter_mut().filter(carrying).min_by_key(|(_, busy)| busy.chunks)
            && busy.chunks < CHUNKS_AT_ONCE
            && let Some(chunk) = self.sender.next_chunk(*lane)
        {
            busy.chunks += 1;
            let (lane, link) = (*lane, busy.link.clone());
            let header = chunk.header();
            let packing = if self.spooled.remove(&header.index) == Some(header.digest) {
                Packing::Spooled
            } else if self.compression.as_mut().is_some_and(Compression::wants_next) {
                Packing::Compressed
            } else {
                Packing::Plain
            };
            let writing = busy.link.spawn(write(link, chunk, packing));
            self.events.push(Box::pin(async move {
                let written = writing.await.unwrap_or(Err(Error::Cancelled));
                Event::Written(lane, written)
            }));
        }
    }

    /// Takes a link in as a lane, if it is one.
    fn add_lane(&mut self, link: Link) {
        if !link.is_lane() {
            return;
        }
        self.begin_trial(&link);
        let lane = Lane(self.next_lane);
        self.next_lane += 1;
        self.lanes.insert(lane, Busy { link: link.clone(), chunks: 0 });
        self.events.push(Box::pin(async move {
            link.closed().await;
            Event::Ended(lane)
        }));
    }

    /// Once there is one lane of each kind.
    fn begin_trial(&mut self, new: &Link) {
        let other = self.lanes.values().find(|busy| busy.link.transport() != new.transport());
        if let Some(other) = other {
            let round_trip = new.round_trip().min(other.link.round_trip());
            self.trial.begin(time::Instant::now(), self.sender.acknowledged().bytes, round_trip);
        }
    }

    async fn take_in(&mut self, exchange: &mut Exchange<'_>, newcomer: Newcomer) {
        let driver = joins::driver(self.lanes.values().map(|busy| &busy.link));
        match newcomer.let_in(driver).await {
            Ok(Join::Lane { link, .. }) => self.add_lane(link),
            Ok(Join::Rejoin { link, control, .. }) => self.go_on_over(exchange, link, control).await,
            Err(error) => tracing::debug!(%error, "a link that joined was lost at once"),
        }
    }

    /// The link with the control stream is gone: waits for another. Its chunks are sent again, less what the receiver holds.
    async fn come_back(&mut self, exchange: &mut Exchange<'_>, lost: Error) -> Result<()> {
        let (link, control, _) = exchange.rejoin(lost).await?;
        self.go_on_over(exchange, link, control).await;
        Ok(())
    }

    async fn go_on_over(&mut self, exchange: &mut Exchange<'_>, link: Link, control: Control) {
        exchange.adopt(link.clone(), control);
        let closed: Vec<_> =
            self.lanes.iter().filter(|(_, l)| l.link.is_closed()).map(|(lane, _)| *lane).collect();
        for lane in closed {
            self.lose(lane);
        }
        self.waits_for_holding = true;
        self.add_lane(link);
        if let Some(fin) = self.sender.fin() {
            // If this link is lost as well, listening to it says so.
            let _ = exchange.tell(fin_to_proto(fin)).await;
        }
    }

    fn handle(&mut self, exchange: &Exchange<'_>, event: Event) -> Result<()> {
        match event {
            Event::Written(lane, Ok(Written { bytes, travels })) => {
                self.handed_over += bytes;
                if let (Some(travels), Some(compression)) = (travels, &mut self.compression) {
                    compression.packed(time::Instant::now(), bytes, travels);
                }
                if let Some(busy) = self.lanes.get_mut(&lane) {
                    busy.chunks -= 1;
                    exchange.moved.carried(busy.link.transport(), bytes);
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
        self.watch.moved();
        match piece {
            Some(piece) => {
                self.piece = piece.map_err(Error::Pipe)?;
                self.compression.get_or_insert_with(|| Compression::of(&self.piece, time::Instant::now()));
            }
            None => self.ended = true,
        }
        Ok(())
    }

    fn hear(&mut self, exchange: &Exchange<'_>, message: Message) -> Result<()> {
        self.watch.moved();
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
            Message::Spooled(spooled) => {
                let (digests, _) = spooled.digests.as_chunks();
                let digests = (spooled.first..=u64::MAX).zip(digests.iter().map(|digest| Digest(*digest)));
                let room = MOST_SPOOLED.saturating_sub(self.spooled.len());
                self.spooled.extend(digests.take(room));
                Ok(())
            }
            Message::Receipt(receipt) if self.sender.is_done() => {
                self.receipt = Some(receipt);
                Ok(())
            }
            Message::Receipt(_) => Err(Error::protocol(peer, "a receipt for what it has not acknowledged")),
            Message::Fin(_) => Err(Error::protocol(peer, "it ends a stream that it receives")),
            Message::Plan(_) => Err(Error::protocol(peer, "it plans a stream that it receives")),
            Message::Abort(abort) => Err(Error::aborted(peer, abort)),
        }
    }
}

/// How a chunk is to travel.
enum Packing {
    Plain,
    Compressed,
    /// As a header alone.
    Spooled,
}

async fn write(link: Link, chunk: Chunk, packing: Packing) -> Result<Written> {
    let mut header = *chunk.header();
    let mut travels = chunk.into_payload();
    let mut written = Written { bytes: travels.len() as u64, travels: None };
    match packing {
        Packing::Plain => {}
        Packing::Compressed => {
            if let Some(frame) = zstd::pack(&travels) {
                header.form = Form::Zstd(u32::try_from(frame.len()).expect("it is shorter than a chunk"));
                travels = frame;
            }
            written.travels = Some(travels.len() as u64);
        }
        Packing::Spooled => {
            header.form = Form::Spooled;
            travels = Bytes::new();
        }
    }
    link.send_chunk(&header.encode(), travels).await?;
    Ok(written)
}
