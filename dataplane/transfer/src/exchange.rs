//! What both directions of a transfer share: the control stream, giving up, and proto words for wire's.

use std::time::Duration;

use ds_blockio::BlockIo;
use ds_link::{Control, Link};
use ds_proto::v1::{self, TransferControl, transfer_control::Message};
use ds_wire::TransferId;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Error, Progress, Result};

/// The receiver's window: the bytes that it holds in memory at most. 2.5 Gb/s over 100 ms.
pub(crate) const WINDOW_BYTES: u64 = 32 << 20;

/// Blocks of [`ds_wire::CHUNK_BYTES`] between a pipe and us.
pub(crate) const PIPE_DEPTH: usize = 2;

/// Without any progress for so long a transfer is given up: an end that is reachable but stuck must not hold a place for
/// ever. Long, because ZFS may search for changes, or write out, for minutes.
const STALL: Duration = Duration::from_mins(10);

/// How long the last words of a transfer may take to arrive.
const FAREWELL: Duration = Duration::from_secs(3);

/// One transfer in one process.
pub(crate) struct Exchange<'a> {
    pub(crate) link: &'a Link,
    pub(crate) control: &'a mut Control,
    pub(crate) io: &'a BlockIo,
    pub(crate) transfer: TransferId,
    pub(crate) estimate: Option<u64>,
    pub(crate) progress: &'a (dyn Fn(Progress) + Send + Sync),
    pub(crate) cancel: &'a CancellationToken,
}

impl Exchange<'_> {
    pub(crate) fn report(&self, bytes: u64) {
        (self.progress)(Progress { bytes, estimate: self.estimate });
    }

    pub(crate) async fn tell(&mut self, message: Message) -> Result<()> {
        Ok(self.control.send.send(&TransferControl { message: Some(message) }).await?)
    }

    /// The next message of the other end; its giving up, or going away, is an error. May be cancelled.
    pub(crate) async fn heard(&mut self) -> Result<Message> {
        let peer = self.link.peer();
        match self.control.recv.recv::<TransferControl>().await? {
            Some(TransferControl { message: Some(Message::Abort(abort)) }) => {
                Err(Error::aborted(peer, abort))
            }
            Some(TransferControl { message: Some(message) }) => Ok(message),
            Some(TransferControl { message: None }) => Err(Error::protocol(peer, "an empty message")),
            None => Err(Error::protocol(peer, "it ended the stream before the transfer was over")),
        }
    }
}

/// Ends our direction and waits a moment for it to arrive: the caller may close the link right after.
pub(crate) async fn farewell(control: &mut Control) {
    if control.send.finish().is_ok() {
        // Whether the last words arrived changes nothing for us: the other end sees the link close otherwise.
        let _ = timeout(FAREWELL, control.send.delivered()).await;
    }
}

/// Completes when nothing has moved since `last` for too long.
pub(crate) async fn stalled(last: Instant) -> Error {
    tokio::time::sleep_until(last + STALL).await;
    Error::Stalled(STALL.as_secs() / 60)
}

pub(crate) fn ack_to_proto(ack: ds_wire::Ack) -> Message {
    Message::Ack(v1::Ack { chunks: ack.chunks, bytes: ack.bytes })
}

pub(crate) fn ack_from_proto(ack: v1::Ack) -> ds_wire::Ack {
    ds_wire::Ack { chunks: ack.chunks, bytes: ack.bytes }
}

pub(crate) fn fin_to_proto(fin: ds_wire::Fin) -> Message {
    Message::Fin(v1::Fin { bytes: fin.bytes, chunks: fin.chunks, digest: fin.digest.0.to_vec() })
}

/// `None` if the digest is no digest.
pub(crate) fn fin_from_proto(fin: &v1::Fin) -> Option<ds_wire::Fin> {
    let digest = ds_wire::Digest(fin.digest.as_slice().try_into().ok()?);
    Some(ds_wire::Fin { bytes: fin.bytes, chunks: fin.chunks, digest })
}
