//! What both directions of a transfer share: the control stream and its links, coming back after a link was lost, giving up,
//! and proto words for wire's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ds_link::{Chunks, Control, Driver, Link, Transport};
use ds_proto::v1::{self, StreamOpen, TransferControl, stream_open::Kind, transfer_control::Message};
use ds_wire::TransferId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Progress, Result,
    error::in_full,
    joins::{Join, Joining, Moved, Newcomer, Purpose, accepted},
};

/// The receiver's window: the bytes that it holds in memory at most, that the sender keeps, and that may be sent again after a
/// link was lost. 1 Gb/s over 200 ms where some packets are lost three times before they arrive, so that a chunk takes up to five
/// round trips.
pub(crate) const WINDOW_BYTES: u64 = 128 << 20;

/// What of it the sender uses where the path is not long, and over TCP: enough there, and less memory. All that a broken middlebox took
/// and did not pass on is sent again, with chunks that were half-way: together at most 64 MiB. Over QUIC nothing between the ends says
/// that it took anything.
pub(crate) const NEAR_WINDOW_BYTES: u64 = 48 << 20;

/// How long the last words of a transfer may take to arrive.
const FAREWELL: Duration = Duration::from_secs(3);

/// For so long both ends of a transfer wait for each other after its link was lost.
const GRACE: Duration = Duration::from_mins(1);

/// Between two tries to come back.
const REDIAL_PAUSE: Duration = Duration::from_millis(250);

/// One transfer in one process.
pub(crate) struct Exchange<'a> {
    /// The link with the control stream; it is a lane too.
    pub(crate) link: Link,
    pub(crate) control: Control,
    /// Links that join.
    pub(crate) joining: Joining,
    pub(crate) end: End,
    pub(crate) transfer: TransferId,
    pub(crate) estimate: Option<u64>,
    pub(crate) progress: &'a (dyn Fn(Progress) + Send + Sync),
    pub(crate) cancel: &'a CancellationToken,
    /// For whoever decides about lanes.
    pub(crate) moved: Arc<Moved>,
}

/// Which end of a transfer this is: who comes back after a link was lost, and who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It dials.
    Opener,
    /// It is dialled.
    Acceptor,
}

impl<'a> Exchange<'a> {
    /// Of an unknown length, and watched by nobody.
    pub(crate) fn new(
        end: End,
        transfer: TransferId,
        (link, control): (&Link, Control),
        joining: Joining,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self {
            link: link.clone(),
            control,
            joining,
            end,
            transfer,
            estimate: None,
            progress: &|_| {},
            cancel,
            moved: Arc::default(),
        }
    }

    pub(crate) fn report(&self, bytes: u64) {
        self.moved.arrived.store(bytes, Ordering::Relaxed);
        (self.progress)(Progress { bytes, estimate: self.estimate });
    }

    pub(crate) async fn tell(&mut self, message: Message) -> Result<()> {
        Ok(self.control.send.send(&TransferControl { message: Some(message) }).await?)
    }

    /// Goes on after `lost`, if that is the loss of the link and the other end comes back in time; the answer is the new link. Else `lost` itself is the error.
    pub(crate) async fn rejoin(&mut self, lost: Error) -> Result<Comeback> {
        let may_go_on = match (&lost, self.end) {
            (Error::Link(error), End::Opener) => error.is_lost(),
            // An end that answers and knows nothing of the link has closed it, or is another process: it will not come back. On TCP it
            // may be anybody on the path who answers so.
            (Error::Link(error), End::Acceptor) => match error {
                ds_link::Error::TimedOut { .. } => true,
                ds_link::Error::Lost { .. } => self.link.transport() == Transport::Tcp,
                _ => false,
            },
            _ => false,
        };
        if !may_go_on {
            return Err(lost);
        }
        let (peer, error) = (self.link.peer(), in_full(&lost));
        tracing::info!(%peer, error, "a transfer lost its link and waits for another");
        let cancel = self.cancel;
        let coming = async {
            match self.end {
                End::Opener => self.come_back().await,
                End::Acceptor => self.wait_for_other().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => Err(Error::Cancelled),
            back = timeout(GRACE, coming) => back.ok().flatten().ok_or(lost),
        }
    }

    /// Makes a joined link the one with the control stream. Its other parts stay with the caller.
    pub(crate) fn adopt(&mut self, link: Link, control: Control) {
        // It may only seem alive.
        self.link.close("another link has taken over");
        self.link = link;
        self.control = control;
    }

    async fn come_back(&self) -> Option<Comeback> {
        loop {
            match self.dial_back().await {
                Ok(back) => return back,
                // The other process knows nothing of the transfer: it is another one by now.
                Err(Error::Aborted { .. } | Error::Protocol { .. }) => return None,
                Err(error) => tracing::debug!(peer = %self.link.peer(), %error, "cannot come back yet"),
            }
            tokio::time::sleep(REDIAL_PAUSE).await;
        }
    }

    async fn dial_back(&self) -> Result<Option<Comeback>> {
        let Some(link) = self.link.another().await else { return Ok(None) };
        let link = link?;
        let chunks = link.chunks(self.transfer.0);
        let rejoin = v1::TransferRejoin { transfer: self.transfer.0.to_vec() };
        let mut control = open(&link, &StreamOpen { kind: Some(Kind::Rejoin(rejoin)) }).await?;
        accepted(&link, &mut control).await?;
        Ok(Some((link, control, chunks)))
    }

    /// Lanes that come meanwhile are let go of: they are as lost as the link, or are dialled again.
    async fn wait_for_other(&mut self) -> Option<Comeback> {
        loop {
            let newcomer = self.joining.recv().await?;
            if let Newcomer::Waiting { purpose: Purpose::Rejoin, .. } = newcomer
                && let Ok(Join::Rejoin { link, control, chunks }) = newcomer.let_in(Driver::Here).await
            {
                return Some((link, control, chunks));
            }
        }
    }

    /// The next message of the other end, whose giving up, or going away, is an error; or a link that joins. May be cancelled.
    pub(crate) async fn heard(&mut self) -> Heard {
        let peer = self.link.peer();
        let message = tokio::select! {
            Some(newcomer) = self.joining.recv() => return Heard::Newcomer(newcomer),
            message = self.control.recv.recv::<TransferControl>() => message,
        };
        Heard::Said(match message {
            Ok(Some(TransferControl { message: Some(Message::Abort(abort)) })) => {
                Err(Error::aborted(peer, abort))
            }
            Ok(Some(TransferControl { message: Some(message) })) => Ok(message),
            Ok(Some(TransferControl { message: None })) => Err(Error::protocol(peer, "an empty message")),
            Ok(None) => Err(Error::protocol(peer, "it ended the stream before the transfer was over")),
            Err(error) => Err(error.into()),
        })
    }
}

/// Opens the control stream of an exchange. The other end keeps it alive as well.
pub(crate) async fn open(link: &Link, first: &StreamOpen) -> Result<Control> {
    let mut control = link.open(first).await?;
    link.keep_alive(&mut control);
    Ok(control)
}

/// What an exchange waits for.
pub(crate) enum Heard {
    Said(Result<Message>),
    Newcomer(Newcomer),
}

/// The link over which a transfer goes on, its control stream, and where chunks arrive on it.
pub(crate) type Comeback = (Link, Control, Chunks);

/// Ends our direction and waits a moment for it to arrive: the caller may close the link right after.
pub(crate) async fn farewell(control: &mut Control) {
    if control.send.finish().await.is_ok() {
        // Whether the last words arrived changes nothing for us: the other end sees the link close otherwise.
        let _ = timeout(FAREWELL, control.send.delivered()).await;
    }
}

pub(crate) fn ack_to_proto(ack: ds_wire::Ack) -> Message {
    Message::Ack(ack_from_wire(ack))
}

pub(crate) fn ack_from_wire(ack: ds_wire::Ack) -> v1::Ack {
    v1::Ack { chunks: ack.chunks, bytes: ack.bytes }
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
