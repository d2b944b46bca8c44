//! The receiving end: chunks → [`ds_wire::Receiver`] → blockio → `zfs receive`, which starts only when the stream's
//! beginning was looked at.

use std::{collections::HashMap, future::pending, sync::Arc};

use bytes::{Bytes, BytesMut};
use ds_blockio::{BlockWriter, Buffer, Buffers};
use ds_link::{ChunkReader, Chunks, Control, HEAD_BYTES, Link, Peer};
use ds_proto::v1::{Holding, Spooled, transfer_control::Message};
use ds_wire::{
    Admission, CHUNK_BYTES, Chunk, ChunkHeader, Digest, Digester, Fin, Form, HEADER_BYTES, Lane, Receiver,
};
use ds_zfs::{BEGIN_BYTES, SnapshotGuid, StreamReader};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::task::AbortHandle;

use crate::{
    Error, Result,
    compression::zstd,
    exchange::{Exchange, Heard, WINDOW_BYTES, ack_from_wire, ack_to_proto, fin_from_proto},
    joins::{self, Join, Newcomer},
    spool::Spool,
    stall::{Look, Watch},
};

/// Chunks that may come twice after a lane was lost: as many as can be on their way.
const MOST_COPIES: u64 = WINDOW_BYTES / CHUNK_BYTES as u64;

/// What arrived and is on the pool.
pub(crate) struct Received {
    pub(crate) fin: Fin,
    pub(crate) guid: SnapshotGuid,
}

/// Receives a stream into `intake` and acknowledges what is written. What the spool has of it need not travel. On an error nothing
/// of it remains on the pool, except what the next attempt goes on with; telling the other end is up to the caller.
pub(crate) async fn receive(
    exchange: &mut Exchange<'_>,
    chunks: Chunks,
    intake: ds_zfs::Intake,
    spool: Option<Spool>,
) -> Result<Received> {
    let mut stream = Stream::new(exchange, chunks)?;
    stream.use_spool(spool);
    let beginning = stream.beginning(exchange).await?;
    let ds_zfs::Receiving { stdin, stream: mut records, process } = intake.begin(&beginning)?;
    stream.watch.watch(process.progress());
    let mut beginning = beginning;
    let rest = beginning.split_off(BEGIN_BYTES);
    let streamed = match BlockWriter::new(stdin) {
        Ok(writer) => {
            stream.write_to(exchange, Sink::after(beginning.len(), writer), rest, Some(&mut records)).await
        }
        Err(error) => Err(Error::Pipe(error)),
    };
    match streamed {
        Ok(fin) => Ok(Received { fin, guid: process.finish(&records).await? }),
        // ZFS closed the pipe: its exit status and its words say why.
        Err(Error::Pipe(error)) => {
            Err(process.finish(&records).await.map_or_else(Into::into, |_| Error::Pipe(error)))
        }
        Err(error) => {
            // What is whole so far need not be sent again, where ZFS can go on with it.
            let ended =
                if error.is_of_the_way() { process.suspend().await.map(drop) } else { process.abort().await };
            if let Err(error) = ended {
                tracing::warn!(%error, "a half-received snapshot may remain until the next start");
            }
            Err(error)
        }
    }
}

/// Receives any stream into a pipe, as it comes.
pub(crate) async fn receive_into(
    exchange: &mut Exchange<'_>,
    chunks: Chunks,
    pipe: std::os::fd::OwnedFd,
) -> Result<Fin> {
    let writer = BlockWriter::new(pipe).map_err(Error::Pipe)?;
    Stream::new(exchange, chunks)?.write_to(exchange, Sink::after(0, writer), Bytes::new(), None).await
}

struct Stream {
    receiver: Receiver,
    digester: Arc<Digester>,
    buffers: Arc<Buffers>,
    spool: Option<Arc<Spool>>,
    lanes: HashMap<Lane, Link>,
    next_lane: u32,
    /// Chunks whose payload is being read.
    under_way: HashMap<u64, Reading>,
    /// What the lanes do.
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Copies of chunks that may still come. Each lane can be lost once, and then what was under way comes again; the sender may
    /// see that before us. More are an attack.
    copies_left: u64,
    /// Where it goes; nowhere until its beginning is let in.
    sink: Option<Sink>,
    fin: Option<Fin>,
    watch: Watch,
}

struct Sink {
    writer: BlockWriter,
    /// In order, and not yet written; shorter as it is.
    piece: Option<Bytes>,
    /// Bytes of the stream that were written before there was a sink.
    before: u64,
}

impl Sink {
    fn after(before: usize, writer: BlockWriter) -> Self {
        Self { writer, piece: None, before: before as u64 }
    }
}

/// The payload of a chunk, on its way over a lane.
struct Reading {
    lane: Lane,
    task: AbortHandle,
}

enum Event {
    Heard(Heard),
    /// A lane has a further chunk, or none any more.
    Next(Lane, Chunks, Option<ChunkReader>),
    Header(Lane, Result<(ChunkReader, ChunkHeader)>),
    Payload(Lane, u64, Result<Chunk>),
    /// What lies in the spool, from this chunk on.
    Spooled(u64, Vec<Digest>),
    /// So much of the stream is written.
    Written(u64),
    /// Nothing has moved for a while.
    Still,
}

impl Stream {
    fn new(exchange: &Exchange<'_>, chunks: Chunks) -> Result<Self> {
        let mut stream = Self {
            receiver: Receiver::new(exchange.transfer, WINDOW_BYTES)?,
            digester: Arc::new(Digester::new(exchange.transfer)),
            buffers: Buffers::new(CHUNK_BYTES),
            spool: None,
            lanes: HashMap::new(),
            next_lane: 0,
            under_way: HashMap::new(),
            events: FuturesUnordered::new(),
            copies_left: 0,
            sink: None,
            fin: None,
            watch: Watch::new(),
        };
        stream.add_lane(exchange.link.clone(), chunks);
        Ok(stream)
    }

    fn use_spool(&mut self, spool: Option<Spool>) {
        self.spool = spool.map(Arc::new);
        self.read_spool(0);
    }

    /// Looks at what the spool has, from this chunk on.
    fn read_spool(&mut self, first: u64) {
        let Some(spool) = self.spool.clone() else { return };
        let digester = Arc::clone(&self.digester);
        self.events.push(Box::pin(async move {
            // What cannot be read is sent again.
            Event::Spooled(first, spool.digests(first, digester).await.unwrap_or_default())
        }));
    }

    async fn tell_spooled(&mut self, exchange: &mut Exchange<'_>, first: u64, digests: Vec<Digest>) {
        if digests.is_empty() {
            return;
        }
        self.read_spool(first + digests.len() as u64);
        let digests = digests.iter().flat_map(|digest| digest.0).collect();
        // If the link is lost, listening to it says so, and the rest is sent.
        let _ = exchange.tell(Message::Spooled(Spooled { first, digests })).await;
    }

    /// Takes a link in as a lane, if it is one.
    fn add_lane(&mut self, link: Link, chunks: Chunks) {
        if !link.is_lane() {
            return;
        }
        let lane = Lane(self.next_lane);
        self.next_lane += 1;
        self.lanes.insert(lane, link);
        self.copies_left += MOST_COPIES;
        self.events.push(Box::pin(next_chunk(lane, chunks)));
    }

    fn lose(&mut self, lane: Lane) {
        if self.lanes.remove(&lane).is_some() {
            self.under_way.retain(|_, reading| reading.lane != lane);
        }
    }

    /// At least [`BEGIN_BYTES`] of the stream, or all of a shorter one.
    async fn beginning(&mut self, exchange: &mut Exchange<'_>) -> Result<Bytes> {
        let mut beginning = BytesMut::new();
        while beginning.len() < BEGIN_BYTES {
            match self.receiver.next_bytes() {
                Some(piece) => beginning.extend_from_slice(&piece),
                None if self.receiver.is_complete() => break,
                None => {
                    let event = self.next(exchange).await?;
                    self.handle(exchange, event).await?;
                }
            }
        }
        Ok(beginning.freeze())
    }

    /// Writes `first` and then all that follows; records, where there are such, are looked at before.
    async fn write_to(
        mut self,
        exchange: &mut Exchange<'_>,
        mut sink: Sink,
        first: Bytes,
        mut records: Option<&mut StreamReader>,
    ) -> Result<Fin> {
        let before = sink.before;
        let mut first = Some(first).filter(|first| !first.is_empty());
        loop {
            if sink.piece.is_none() {
                sink.piece = first.take().or_else(|| self.receiver.next_bytes());
                if let (Some(records), Some(piece)) = (&mut records, &sink.piece) {
                    records.push(piece).map_err(ds_zfs::Error::from)?;
                }
            }
            if sink.piece.is_none() && self.receiver.is_complete() {
                break;
            }
            self.sink = Some(sink);
            let event = self.next(exchange).await?;
            self.handle(exchange, event).await?;
            sink = self.sink.take().expect("it is set above, and nobody else takes it");
        }
        let total = before + sink.writer.written_bytes();
        drop(sink);
        if let Some(ack) = self.receiver.written(total) {
            self.last_ack(exchange, ack).await?;
        }
        exchange.report(total);
        Ok(self.fin.expect("a complete stream has an end"))
    }

    /// Waits for what happens next.
    async fn next(&mut self, exchange: &mut Exchange<'_>) -> Result<Event> {
        let cancel = exchange.cancel;
        Ok(tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            heard = exchange.heard() => Event::Heard(heard),
            Some(event) = self.events.next() => event,
            event = moved(self.sink.as_mut()) => event.map_err(Error::Pipe)?,
            () = self.watch.still() => Event::Still,
        })
    }

    async fn handle(&mut self, exchange: &mut Exchange<'_>, event: Event) -> Result<()> {
        let peer = exchange.link.peer();
        if let Event::Payload(..) | Event::Written(_) = event {
            self.watch.moved();
        }
        match event {
            Event::Heard(Heard::Said(Ok(Message::Fin(fin)))) => {
                let fin =
                    fin_from_proto(&fin).ok_or_else(|| Error::protocol(peer, "an end without a digest"))?;
                self.receiver.fin(fin)?;
                self.fin = Some(fin);
            }
            Event::Heard(Heard::Said(Ok(_))) => {
                return Err(Error::protocol(peer, "words that a receiver says"));
            }
            Event::Heard(Heard::Said(Err(lost))) => {
                let (link, control, chunks) = exchange.rejoin(lost).await?;
                self.go_on_over(exchange, link, control, chunks).await;
            }
            Event::Heard(Heard::Newcomer(newcomer)) => self.take_in(exchange, newcomer).await,
            Event::Next(lane, chunks, Some(stream)) => {
                self.events.push(Box::pin(next_chunk(lane, chunks)));
                self.read_header(lane, stream, peer);
            }
            Event::Next(lane, _, None) => self.lose(lane),
            Event::Header(lane, Ok((stream, header))) => self.admit(lane, stream, header, peer)?,
            // Given up for another lane, or lost with its own.
            Event::Payload(lane, index, Err(_)) if !self.reads(lane, index) => {}
            Event::Payload(lane, index, Ok(chunk)) => {
                if self.reads(lane, index) {
                    self.under_way.remove(&index);
                }
                if let Some(link) = self.lanes.get(&lane) {
                    exchange.moved.carried(link.transport(), chunk.payload().len() as u64);
                }
                self.accept(chunk, peer)?;
            }
            Event::Header(lane, Err(error)) | Event::Payload(lane, _, Err(error)) => {
                self.broken(lane, error)?;
            }
            Event::Spooled(first, digests) => self.tell_spooled(exchange, first, digests).await,
            Event::Written(total) => self.acknowledge(exchange, total).await,
            Event::Still => self.look(exchange).await?,
        }
        Ok(())
    }

    /// Nothing has moved for a while. If ZFS is at work all the same, the sender is told by the last acknowledgement
    /// once more.
    async fn look(&mut self, exchange: &mut Exchange<'_>) -> Result<()> {
        let full = self.sink.as_ref().is_some_and(|sink| sink.piece.is_some());
        let what = if full { "`zfs receive` takes nothing" } else { "the sender sends nothing" };
        if self.watch.look(what).await? == Look::ZfsMoved {
            // If the link is lost, listening to it says so.
            let _ = exchange.tell(ack_to_proto(self.receiver.acknowledged())).await;
        }
        Ok(())
    }

    /// Nobody listens to the link any more, so its loss is seen here.
    async fn last_ack(&mut self, exchange: &mut Exchange<'_>, ack: ds_wire::Ack) -> Result<()> {
        if let Err(lost) = exchange.tell(ack_to_proto(ack)).await {
            let (link, control, chunks) = exchange.rejoin(lost).await?;
            self.go_on_over(exchange, link, control, chunks).await;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, exchange: &mut Exchange<'_>, total: u64) {
        if let Some(ack) = self.receiver.written(total) {
            // If the link is lost, listening to it says so, and what is held is said again on the next.
            let _ = exchange.tell(ack_to_proto(ack)).await;
            exchange.report(total);
        }
    }

    async fn take_in(&mut self, exchange: &mut Exchange<'_>, newcomer: Newcomer) {
        match newcomer.let_in(joins::driver(self.lanes.values())).await {
            Ok(Join::Lane { link, chunks }) => self.add_lane(link, chunks),
            Ok(Join::Rejoin { link, control, chunks }) => {
                self.go_on_over(exchange, link, control, chunks).await;
            }
            Err(error) => tracing::debug!(%error, "a link that joined was lost at once"),
        }
    }

    async fn go_on_over(
        &mut self,
        exchange: &mut Exchange<'_>,
        link: Link,
        control: Control,
        chunks: Chunks,
    ) {
        exchange.adopt(link.clone(), control);
        let closed: Vec<_> =
            self.lanes.iter().filter(|(_, l)| l.is_closed()).map(|(lane, _)| *lane).collect();
        for lane in closed {
            self.lose(lane);
        }
        self.add_lane(link, chunks);
        let written = ack_from_wire(self.receiver.acknowledged());
        let holding = Holding { written: Some(written), ahead: self.receiver.held().collect() };
        let _ = exchange.tell(Message::Holding(holding)).await;
    }

    fn read_header(&mut self, lane: Lane, stream: ChunkReader, peer: Peer) {
        let Some(link) = self.lanes.get(&lane) else { return };
        let reading = link.spawn(read_header(stream, peer));
        self.events.push(Box::pin(async move {
            Event::Header(lane, reading.await.unwrap_or(Err(Error::Cancelled)))
        }));
    }

    /// Lets a chunk's payload into memory, if it is within the window and not there already.
    fn admit(&mut self, lane: Lane, stream: ChunkReader, header: ChunkHeader, peer: Peer) -> Result<()> {
        let index = header.index;
        if self.receiver.check(&header)? == Admission::Duplicate {
            return self.count_copy(index, peer);
        }
        if let Some(earlier) = self.under_way.get(&index) {
            if earlier.lane == lane {
                return Err(Error::protocol(peer, format!("it sends chunk {index} twice over one lane")));
            }
            // The sender has lost that lane before we did: what is left of the chunk will not come over it.
            earlier.task.abort();
            self.count_copy(index, peer)?;
        }
        let Some(link) = self.lanes.get(&lane) else { return Ok(()) };
        let buffer = self.buffers.take(header.length as usize);
        let place = match (header.form, &self.spool) {
            (Form::Plain, _) => Place::Lane,
            (Form::Zstd(bytes), _) => Place::Frame(self.buffers.take(bytes as usize)),
            (Form::Spooled, Some(spool)) => Place::Spool(Arc::clone(spool)),
            (Form::Spooled, None) => return Err(Error::protocol(peer, "it leaves out what is not here")),
        };
        let reading = read_payload(stream, header, (buffer, place), Arc::clone(&self.digester), peer);
        let reading = link.spawn(reading);
        self.under_way.insert(index, Reading { lane, task: reading.abort_handle() });
        self.events.push(Box::pin(async move {
            Event::Payload(lane, index, reading.await.unwrap_or(Err(Error::Cancelled)))
        }));
        Ok(())
    }

    fn reads(&self, lane: Lane, index: u64) -> bool {
        self.under_way.get(&index).is_some_and(|reading| reading.lane == lane)
    }

    fn accept(&mut self, chunk: Chunk, peer: Peer) -> Result<()> {
        let index = chunk.header().index;
        let new = chunk.header().form != Form::Spooled;
        let kept = self.spool.as_ref().filter(|_| new).map(|spool| (spool, chunk.clone()));
        match self.receiver.accept(chunk)? {
            Admission::New => {
                if let Some((spool, chunk)) = kept {
                    spool.keep(&chunk);
                }
                Ok(())
            }
            Admission::Duplicate => self.count_copy(index, peer),
        }
    }

    fn count_copy(&mut self, index: u64, peer: Peer) -> Result<()> {
        let left = self.copies_left.checked_sub(1);
        self.copies_left =
            left.ok_or_else(|| Error::protocol(peer, format!("it sends chunk {index} twice")))?;
        Ok(())
    }

    /// A chunk that could not be read: with its lane, it comes again over another.
    fn broken(&mut self, lane: Lane, error: Error) -> Result<()> {
        match self.lanes.get(&lane) {
            Some(link) if matches!(error, Error::Link(_)) && link.is_closed() => self.lose(lane),
            Some(_) => return Err(error),
            None => {}
        }
        Ok(())
    }
}

async fn next_chunk(lane: Lane, mut chunks: Chunks) -> Event {
    let next = chunks.next().await;
    Event::Next(lane, chunks, next)
}

/// A piece was written. Never completes without one. May be cancelled.
async fn moved(sink: Option<&mut Sink>) -> std::io::Result<Event> {
    let Some(Sink { writer, piece, before }) = sink else { return pending().await };
    let Some(bytes) = piece else { return pending().await };
    writer.write(bytes).await?;
    *piece = None;
    Ok(Event::Written(*before + writer.written_bytes()))
}

async fn read_header(mut stream: ChunkReader, peer: Peer) -> Result<(ChunkReader, ChunkHeader)> {
    let mut bytes = [0; HEADER_BYTES];
    let (head, rest) = bytes.split_at_mut(HEAD_BYTES);
    head.copy_from_slice(&stream.head());
    stream.read_header(rest).await.map_err(|e| broken(e, peer))?;
    Ok((stream, ChunkHeader::decode(&bytes)?))
}

/// Where a payload comes from.
enum Place {
    Lane,
    /// Compressed, for which there is this room.
    Frame(Buffer),
    Spool(Arc<Spool>),
}

async fn read_payload(
    mut stream: ChunkReader,
    header: ChunkHeader,
    (mut buffer, place): (Buffer, Place),
    digester: Arc<Digester>,
    peer: Peer,
) -> Result<Chunk> {
    let broken = |e| broken(e, peer);
    match place {
        Place::Lane => {
            stream.read_payload(buffer.as_mut()).await.map_err(broken)?;
            // A lane over TCP goes on while this one is looked at.
            drop(stream);
        }
        Place::Frame(mut frame) => {
            stream.read_payload(frame.as_mut()).await.map_err(broken)?;
            drop(stream);
            if !zstd::unpack(frame.as_ref(), buffer.as_mut()) {
                return Err(ds_wire::Error::Unpack { index: header.index, length: header.length }.into());
            }
        }
        Place::Spool(spool) => {
            stream.read_payload(&mut []).await.map_err(broken)?;
            drop(stream);
            let read = spool.read(&header, buffer).await.map_err(Error::Spool);
            let chunk = read.and_then(|read| Ok(Chunk::verify(header, read.freeze(), &digester)?));
            return chunk.inspect_err(|_| spool.discard());
        }
    }
    Ok(Chunk::verify(header, buffer.freeze(), &digester)?)
}

/// A stream that the sender broke off while the link lives: it is giving up, which the control stream says better; but a
/// sender that never says so must not go on.
fn broken(error: ds_link::Error, peer: Peer) -> Error {
    match error {
        ds_link::Error::Frame(_) => Error::protocol(peer, "a chunk is not as long as it says"),
        other => other.into(),
    }
}
