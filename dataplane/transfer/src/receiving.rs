//! The receiving end: chunk streams → [`ds_wire::Receiver`] → blockio → `zfs receive`.

use std::{collections::HashSet, future::pending};

use bytes::{Bytes, BytesMut};
use ds_blockio::BlockWriter;
use ds_link::{ChunkReader, Chunks, Peer};
use ds_proto::v1::transfer_control::Message;
use ds_wire::{Admission, Chunk, ChunkHeader, Fin, HEADER_BYTES, Receiver};
use ds_zfs::SnapshotGuid;
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

/// Receives a stream into `sink` and acknowledges what is written. On an error nothing of it remains on the pool;
/// telling the other end is up to the caller.
pub(crate) async fn receive(
    exchange: &mut Exchange<'_>,
    chunks: Chunks,
    sink: ds_zfs::Receiving,
) -> Result<Received> {
    let ds_zfs::Receiving { stdin, process } = sink;
    let streamed = match exchange.io.writer(stdin, PIPE_DEPTH) {
        Ok(writer) => stream(exchange, chunks, writer).await,
        Err(error) => Err(Error::Pipe(error)),
    };
    match streamed {
        Ok(fin) => Ok(Received { fin, guid: process.finish().await? }),
        // ZFS closed the pipe: its exit status and its words say why.
        Err(Error::Pipe(error)) => {
            Err(process.finish().await.map_or_else(Into::into, |_| Error::Pipe(error)))
        }
        Err(error) => {
            if let Err(error) = process.abort().await {
                tracing::warn!(%error, "a half-received snapshot may remain until the next start");
            }
            Err(error)
        }
    }
}

async fn stream(exchange: &mut Exchange<'_>, chunks: Chunks, writer: BlockWriter) -> Result<Fin> {
    let mut receiving = Receiving {
        receiver: Receiver::new(exchange.transfer, WINDOW_BYTES)?,
        chunks,
        under_way: HashSet::new(),
        reading: FuturesUnordered::new(),
        written: writer.written(),
        writer,
        piece: None,
        fin: None,
        moved: Instant::now(),
    };
    while let Some(event) = receiving.next(exchange).await? {
        receiving.handle(exchange, event).await?;
    }
    let Receiving { mut receiver, writer, fin, .. } = receiving;
    let total = writer.finish().await.map_err(Error::Pipe)?;
    if let Some(ack) = receiver.written(total) {
        exchange.tell(ack_to_proto(ack)).await?;
    }
    exchange.report(total);
    Ok(fin.expect("a complete stream has an end"))
}

struct Receiving {
    receiver: Receiver,
    chunks: Chunks,
    /// Chunks whose payload is being read: a second copy of one is no resending but an attack on our memory.
    under_way: HashSet<u64>,
    reading: FuturesUnordered<BoxFuture<'static, Result<Step>>>,
    writer: BlockWriter,
    written: watch::Receiver<u64>,
    /// In order, and not yet queued to be written.
    piece: Option<Bytes>,
    fin: Option<Fin>,
    moved: Instant,
}

enum Event {
    Said(Message),
    Stream(ChunkReader),
    Step(Step),
    Queued,
    Written,
}

/// How far a chunk's stream was read.
enum Step {
    Header(ChunkReader, ChunkHeader),
    Chunk(Chunk),
}

impl Receiving {
    /// Waits for what happens next; `None` when all of the stream is queued to be written.
    async fn next(&mut self, exchange: &mut Exchange<'_>) -> Result<Option<Event>> {
        self.piece = self.piece.take().or_else(|| self.receiver.next_bytes());
        if self.piece.is_none() && self.receiver.is_complete() {
            return Ok(None);
        }
        let (link, cancel) = (exchange.link, exchange.cancel);
        let event = tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            message = exchange.heard() => Event::Said(message?),
            stream = self.chunks.next() => match stream {
                Some(stream) => Event::Stream(stream),
                None => return Err(link.closed().await.into()),
            },
            Some(step) = self.reading.next() => Event::Step(step?),
            queued = queue(&mut self.writer, self.piece.as_ref()) => {
                queued.map_err(Error::Pipe)?;
                Event::Queued
            },
            Ok(()) = self.written.changed() => Event::Written,
            error = stalled(self.moved) => return Err(error),
        };
        Ok(Some(event))
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
            Event::Queued => self.piece = None,
            Event::Written => {
                let total = *self.written.borrow_and_update();
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

/// Never completes while there is nothing to queue.
async fn queue(writer: &mut BlockWriter, piece: Option<&Bytes>) -> std::io::Result<()> {
    match piece {
        Some(piece) => writer.write(piece.clone()).await,
        None => pending().await,
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
