//! The receiving end: chunk streams → [`ds_wire::Receiver`] → blockio → `zfs receive`, which starts only when the stream's
//! beginning was looked at.

use std::{collections::HashSet, future::pending};

use bytes::{Bytes, BytesMut};
use ds_blockio::BlockWriter;
use ds_link::{ChunkReader, Chunks, Peer};
use ds_proto::v1::transfer_control::Message;
use ds_wire::{Admission, Chunk, ChunkHeader, Fin, HEADER_BYTES, Receiver};
use ds_zfs::{BEGIN_BYTES, SnapshotGuid, StreamReader};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};

use crate::{
    Error, Result,
    exchange::{Exchange, PIPE_DEPTH, WINDOW_BYTES, ack_to_proto, fin_from_proto, stalled},
};

/// Bytes taken off a stream at once.
const PIECE_BYTES: usize = 256 << 10;

/// What arrived and is on the pool.
pub(crate) struct Received {
    pub(crate) fin: Fin,
    pub(crate) guid: SnapshotGuid,
}

/// Receives a stream into `intake` and acknowledges what is written. On an error nothing of it remains on the pool;
/// telling the other end is up to the caller.
pub(crate) async fn receive(
    exchange: &mut Exchange<'_>,
    chunks: Chunks,
    intake: ds_zfs::Intake,
) -> Result<Received> {
    let mut stream = Stream::new(exchange, chunks)?;
    let beginning = stream.beginning(exchange).await?;
    let ds_zfs::Receiving { stdin, stream: mut records, process } = intake.begin(&beginning)?;
    let streamed = match exchange.io.writer(stdin, PIPE_DEPTH) {
        Ok(writer) => stream.write_to(exchange, writer, beginning, &mut records).await,
        Err(error) => Err(Error::Pipe(error)),
    };
    match streamed {
        Ok(fin) => Ok(Received { fin, guid: process.finish(&records).await? }),
        // ZFS closed the pipe: its exit status and its words say why.
        Err(Error::Pipe(error)) => {
            Err(process.finish(&records).await.map_or_else(Into::into, |_| Error::Pipe(error)))
        }
        Err(error) => {
            if let Err(error) = process.abort().await {
                tracing::warn!(%error, "a half-received snapshot may remain until the next start");
            }
            Err(error)
        }
    }
}

struct Stream {
    receiver: Receiver,
    chunks: Chunks,
    /// Chunks whose payload is being read: a second copy of one is no resending but an attack on our memory.
    under_way: HashSet<u64>,
    reading: FuturesUnordered<BoxFuture<'static, Result<Step>>>,
    /// Where it goes; nowhere until its beginning is let in.
    sink: Option<Sink>,
    fin: Option<Fin>,
    moved: Instant,
}

struct Sink {
    written: watch::Receiver<u64>,
    writer: BlockWriter,
    /// In order, and not yet queued to be written.
    piece: Option<Bytes>,
}

impl Sink {
    /// The stream's beginning is written before there is a sink.
    fn total(written: u64) -> u64 {
        BEGIN_BYTES as u64 + written
    }
}

enum Event {
    Said(Message),
    Stream(ChunkReader),
    Step(Step),
    Queued,
    /// By the writer, in all.
    Written(u64),
}

/// How far a chunk's stream was read.
enum Step {
    Header(ChunkReader, ChunkHeader),
    Chunk(Chunk),
}

impl Stream {
    fn new(exchange: &Exchange<'_>, chunks: Chunks) -> Result<Self> {
        Ok(Self {
            receiver: Receiver::new(exchange.transfer, WINDOW_BYTES)?,
            chunks,
            under_way: HashSet::new(),
            reading: FuturesUnordered::new(),
            sink: None,
            fin: None,
            moved: Instant::now(),
        })
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

    /// Writes all that follows the beginning, and nothing of it that `records` finds damaged.
    async fn write_to(
        mut self,
        exchange: &mut Exchange<'_>,
        writer: BlockWriter,
        mut beginning: Bytes,
        records: &mut StreamReader,
    ) -> Result<Fin> {
        let rest = beginning.split_off(BEGIN_BYTES);
        records.push(&rest).map_err(ds_zfs::Error::from)?;
        let mut sink = Sink { written: writer.written(), writer, piece: Some(rest) };
        loop {
            if sink.piece.is_none() {
                sink.piece = self.receiver.next_bytes();
                records.push(sink.piece.as_deref().unwrap_or_default()).map_err(ds_zfs::Error::from)?;
            }
            if sink.piece.is_none() && self.receiver.is_complete() {
                break;
            }
            self.sink = Some(sink);
            let event = self.next(exchange).await?;
            self.handle(exchange, event).await?;
            sink = self.sink.take().expect("it is set above, and nobody else takes it");
        }
        let total = Sink::total(sink.writer.finish().await.map_err(Error::Pipe)?);
        if let Some(ack) = self.receiver.written(total) {
            exchange.tell(ack_to_proto(ack)).await?;
        }
        exchange.report(total);
        Ok(self.fin.expect("a complete stream has an end"))
    }

    /// Waits for what happens next.
    async fn next(&mut self, exchange: &mut Exchange<'_>) -> Result<Event> {
        let (link, cancel) = (exchange.link, exchange.cancel);
        Ok(tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            message = exchange.heard() => Event::Said(message?),
            stream = self.chunks.next() => match stream {
                Some(stream) => Event::Stream(stream),
                None => return Err(link.closed().await.into()),
            },
            Some(step) = self.reading.next() => Event::Step(step?),
            event = moved(self.sink.as_mut()) => event.map_err(Error::Pipe)?,
            error = stalled(self.moved) => return Err(error),
        })
    }

    async fn handle(&mut self, exchange: &mut Exchange<'_>, event: Event) -> Result<()> {
        let peer = exchange.link.peer();
        match event {
            Event::Said(Message::Fin(fin)) => {
                let fin =
                    fin_from_proto(&fin).ok_or_else(|| Error::protocol(peer, "an end without a digest"))?;
                self.receiver.fin(fin)?;
                self.fin = Some(fin);
            }
            Event::Said(_) => return Err(Error::protocol(peer, "words that a receiver says")),
            Event::Stream(stream) => self.reading.push(Box::pin(read_header(stream, peer))),
            Event::Step(Step::Header(stream, header)) => self.admit(stream, header, peer)?,
            Event::Step(Step::Chunk(chunk)) => {
                self.under_way.remove(&chunk.header().index);
                self.receiver.accept(chunk)?;
            }
            Event::Queued => {}
            Event::Written(written) => {
                let total = Sink::total(written);
                if let Some(ack) = self.receiver.written(total) {
                    exchange.tell(ack_to_proto(ack)).await?;
                    exchange.report(total);
                }
            }
        }
        self.moved = Instant::now();
        Ok(())
    }

    /// Lets a chunk's payload into memory, if it is within the window and not there already.
    fn admit(&mut self, stream: ChunkReader, header: ChunkHeader, peer: Peer) -> Result<()> {
        let admission = self.receiver.check(&header)?;
        if admission == Admission::Duplicate || !self.under_way.insert(header.index) {
            return Err(Error::protocol(peer, format!("it sends chunk {} twice", header.index)));
        }
        self.reading.push(Box::pin(read_payload(stream, header, peer)));
        Ok(())
    }
}

/// A piece was queued, or pieces were written. Never completes without a sink.
async fn moved(sink: Option<&mut Sink>) -> std::io::Result<Event> {
    let Some(Sink { written, writer, piece }) = sink else { return pending().await };
    let queued = async {
        match piece.as_ref() {
            Some(piece) => writer.write(piece.clone()).await,
            None => pending().await,
        }
    };
    tokio::select! {
        queued = queued => {
            queued?;
            *piece = None;
            Ok(Event::Queued)
        }
        Ok(()) = written.changed() => Ok(Event::Written(*written.borrow_and_update())),
    }
}

async fn read_header(mut stream: ChunkReader, peer: Peer) -> Result<Step> {
    let mut bytes = [0; HEADER_BYTES];
    let head = stream.head();
    bytes[..head.len()].copy_from_slice(&head);
    stream.read_exact(&mut bytes[head.len()..]).await.map_err(|e| broken(e, peer))?;
    Ok(Step::Header(stream, ChunkHeader::decode(&bytes)?))
}

async fn read_payload(mut stream: ChunkReader, header: ChunkHeader, peer: Peer) -> Result<Step> {
    let length = header.length as usize;
    let mut payload = BytesMut::new();
    while let Some(piece) = stream.read(PIECE_BYTES).await.map_err(|e| broken(e, peer))? {
        if payload.len() + piece.len() > length {
            return Err(Error::protocol(peer, format!("chunk {} is longer than it says", header.index)));
        }
        // Allocated only once the first bytes are here.
        payload.reserve(length - payload.len());
        payload.extend_from_slice(&piece);
    }
    Ok(Step::Chunk(Chunk::verify(header, payload.freeze())?))
}

/// A stream that the sender broke off while the link lives: it is giving up, which the control stream says better; but a
/// sender that never says so must not go on.
fn broken(error: ds_link::Error, peer: Peer) -> Error {
    match error {
        ds_link::Error::Frame(_) => Error::protocol(peer, "a chunk ends within its header"),
        other => other.into(),
    }
}
