//! The sending end: `zfs send` → blockio → [`ds_wire::Sender`] → one unidirectional stream per chunk.

use bytes::Bytes;
use ds_blockio::BlockReader;
use ds_link::Link;
use ds_proto::v1::{SignedReceipt, transfer_control::Message};
use ds_wire::{CHUNK_BYTES, Chunk, Fin, Lane, Sender};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::{
    Error, Result,
    exchange::{Exchange, PIPE_DEPTH, ack_from_proto, fin_to_proto, stalled},
};

/// The one connection that carries the chunks.
const LANE: Lane = Lane(0);

/// Chunks that are handed to the connection at once. More would only wait in its buffer.
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
    let reader = exchange.io.reader(stdout, CHUNK_BYTES, PIPE_DEPTH).map_err(Error::Pipe)?;
    let sender = Sender::new(exchange.transfer, window_bytes)?;
    let mut sending =
        Sending { sender, reader, piece: Bytes::new(), ended: false, receipt: None, moved: Instant::now() };
    sending.stream(exchange).await?;
    // The end is only said of a stream that ZFS says is whole.
    process.finish().await?;
    let fin = sending.sender.finish();
    exchange.tell(fin_to_proto(fin)).await?;
    let receipt = sending.rest(exchange).await?;
    Ok(Sent { fin, receipt })
}

struct Sending {
    sender: Sender,
    reader: BlockReader,
    /// Read, and not yet within the window.
    piece: Bytes,
    ended: bool,
    receipt: Option<SignedReceipt>,
    moved: Instant,
}

impl Sending {
    /// Until the pipe has ended and all of it is in the sender.
    async fn stream(&mut self, exchange: &mut Exchange<'_>) -> Result<()> {
        let (link, cancel) = (exchange.link, exchange.cancel);
        let mut writing = FuturesUnordered::new();
        while !(self.ended && self.piece.is_empty() && writing.is_empty()) {
            self.sender.push(&mut self.piece);
            while writing.len() < CHUNKS_AT_ONCE
                && let Some(chunk) = self.sender.next_chunk(LANE)
            {
                writing.push(write(link, chunk));
            }
            let wants_more = !self.ended && self.piece.is_empty() && self.sender.room() > 0;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Cancelled),
                message = exchange.heard() => self.hear(exchange, message?)?,
                Some(written) = writing.next() => written?,
                piece = self.reader.next(), if wants_more => self.take(piece)?,
                error = stalled(self.moved) => return Err(error),
            }
        }
        Ok(())
    }

    /// After the end was said: the last chunk and acknowledgements, until the receipt is here.
    async fn rest(&mut self, exchange: &mut Exchange<'_>) -> Result<SignedReceipt> {
        let (link, cancel) = (exchange.link, exchange.cancel);
        let mut writing = FuturesUnordered::new();
        loop {
            while let Some(chunk) = self.sender.next_chunk(LANE) {
                writing.push(write(link, chunk));
            }
            if self.sender.is_done()
                && let Some(receipt) = self.receipt.take()
            {
                return Ok(receipt);
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Cancelled),
                message = exchange.heard() => self.hear(exchange, message?)?,
                Some(written) = writing.next() => written?,
                error = stalled(self.moved) => return Err(error),
            }
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

async fn write(link: &Link, chunk: Chunk) -> Result<()> {
    let mut stream = link.open_chunk().await?;
    stream.write(Bytes::copy_from_slice(&chunk.header().encode())).await?;
    stream.write(chunk.into_payload()).await?;
    Ok(stream.finish()?)
}
