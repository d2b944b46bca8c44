//! The store's end of a transfer.

use std::time::Duration;

use ds_link::{Chunks, Control, Link};
use ds_proto::v1::{
    Direction, SignedReceipt, TransferAccept, TransferControl, TransferOpen, TransferReply,
    transfer_control::Message as Said, transfer_reply::Reply,
};
use ds_wire::TransferId;
use ds_zfs::{SendPlan, StreamKind};
use tokio::time::timeout;

use super::Node;
use crate::{
    Error, Result,
    client::{conclude, receipt},
    error::in_full,
    exchange::{End, Exchange, WINDOW_BYTES, farewell},
    joins::{Joining, Place},
    metrics::{self, Active, Way},
    outset::{self, Outset},
    plans::{self, Reception, Start},
    receipt::sign,
    receiving, sending,
    spool::Spool,
    ticket::{Grant, Presentation},
};

/// How long a sender may take to decide what it sends: it asks its ZFS.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a transfer ended well.
struct Outcome {
    result: &'static str,
    bytes: u64,
}

const ALREADY: Outcome = Outcome { result: "already", bytes: 0 };

/// Serves one transfer to its end, counts and logs it.
pub(super) async fn serve(node: &Node, link: &Link, mut control: Control, open: TransferOpen) {
    let peer = link.peer();
    let grant = match admit(node, link, &open) {
        Ok(grant) => grant,
        Err(error) => {
            tracing::warn!(%peer, error = in_full(&error), "transfer refused");
            metrics::transfer_ended(Way::In, error.label(), 0);
            return refuse(&mut control, &error).await;
        }
    };
    let way = if grant.direction == Direction::Push { Way::In } else { Way::Out };
    let result = match (node.peers.begin_transfer(peer.node), way) {
        (Err(error), _) => {
            refuse(&mut control, &error).await;
            Err(error)
        }
        (Ok(_place), Way::In) => incoming(node, link, control, &open, &grant).await,
        (Ok(_place), Way::Out) => outgoing(node, link, control, &open, &grant).await,
    };
    let snapshot = grant.snapshot;
    match result {
        Ok(Outcome { result, bytes }) => {
            tracing::info!(%peer, snapshot.id = %snapshot, direction = ?way, size_bytes = bytes, result, "transfer done");
            metrics::transfer_ended(way, result, bytes);
        }
        Err(error) => {
            let label = error.label();
            tracing::warn!(%peer, snapshot.id = %snapshot, direction = ?way, error = in_full(&error), "transfer failed");
            metrics::transfer_ended(way, label, 0);
        }
    }
}

fn admit(node: &Node, link: &Link, open: &TransferOpen) -> Result<Grant> {
    let presentation = Presentation {
        peer: link.peer().node,
        store: node.identity.peer().node,
        now_ms: node.clock.now_ms(),
        remembered_since_ms: node.clock.started_ms(),
    };
    let ticket = open.ticket.as_ref().ok_or_else(|| Error::protocol(link.peer(), "it brings no ticket"))?;
    Ok(node.tickets.verify(ticket, &presentation)?)
}

async fn refuse(control: &mut Control, error: &Error) {
    // An end that is gone need not be told.
    let _ = reply(control, Reply::Abort(error.to_abort())).await;
    farewell(control).await;
}

async fn reply(control: &mut Control, reply: Reply) -> Result<()> {
    Ok(control.send.send(&TransferReply { reply: Some(reply) }).await?)
}

fn transfer_id(link: &Link, open: &TransferOpen) -> Result<TransferId> {
    let id = open.transfer.as_slice().try_into();
    id.map(TransferId).map_err(|_| Error::protocol(link.peer(), "its transfer has no id"))
}

// Push: the peer sends, we receive.

/// A push that was let in.
enum Incoming<'a> {
    Already(SignedReceipt),
    New { transfer: TransferId, joined: (Place<'a>, Joining), chunks: Chunks, offer: Box<Offer> },
}

/// What the peer wants to bring, and what it is told of what is here.
struct Offer {
    plan: SendPlan,
    reception: Reception,
}

async fn incoming(
    node: &Node,
    link: &Link,
    mut control: Control,
    open: &TransferOpen,
    grant: &Grant,
) -> Result<Outcome> {
    let _active = Active::new();
    // The claim first: what another transfer is just finishing is then seen as here.
    let claim = match node.incoming.claim(grant.volume, grant.snapshot) {
        Ok(claim) => claim,
        Err(error) => {
            node.joins.let_go(link.peer().node, grant.snapshot);
            refuse(&mut control, &error).await;
            return Err(error);
        }
    };
    let result = match prepare_incoming(node, link, open, grant).await {
        Ok(Incoming::Already(receipt)) => {
            let told = reply(&mut control, Reply::Already(receipt)).await;
            farewell(&mut control).await;
            told.map(|()| ALREADY)
        }
        Ok(Incoming::New { transfer, joined: (_place, joining), chunks, offer }) => {
            let mut exchange =
                Exchange::new(End::Acceptor, transfer, (link, control), joining, &node.stopping);
            let result = match claim.spool(&node.volumes) {
                Ok(spool) => take_in(node, &mut exchange, grant, chunks, *offer, spool).await,
                Err(error) => Err(error),
            };
            conclude(&mut exchange.control, result).await
        }
        Err(error) => {
            refuse(&mut control, &error).await;
            Err(error)
        }
    };
    // What could not be looked at is looked at later.
    let part = async { node.volumes.resumable(grant.volume, grant.snapshot).await };
    let goes_on = result.as_ref().is_err_and(Error::is_of_the_way);
    if result.is_ok() || (!(goes_on && claim.has_spool()) && matches!(part.await, Ok(None))) {
        claim.settle();
    }
    result
}

async fn take_in(
    node: &Node,
    exchange: &mut Exchange<'_>,
    grant: &Grant,
    chunks: Chunks,
    Offer { plan: offered, reception }: Offer,
    spool: Option<Spool>,
) -> Result<Outcome> {
    let accept =
        TransferAccept { plan: None, window_bytes: WINDOW_BYTES, reception: Some(reception.to_proto()) };
    reply(&mut exchange.control, Reply::Accept(accept)).await?;
    let (plan, start) = decided(exchange, &offered).await?;
    let intake = outset::make_room(&node.volumes, &plan, start).await?;
    let received = receiving::receive(exchange, chunks, intake, spool).await?;
    let store = node.identity.peer().node;
    let mut receipt = receipt(store, exchange.transfer, (grant.volume, grant.snapshot), received.guid);
    receipt.stream_bytes = received.fin.bytes;
    receipt.digest = received.fin.digest.0.to_vec();
    exchange.tell(Said::Receipt(sign(&node.identity, &receipt)?)).await?;
    Ok(Outcome { result: "done", bytes: received.fin.bytes })
}

/// What the sender decided on: the stream that it offered, in a mode of its choice.
async fn decided(exchange: &mut Exchange<'_>, offered: &SendPlan) -> Result<(SendPlan, Start)> {
    let (peer, cancel) = (exchange.link.peer(), exchange.cancel);
    let said = tokio::select! {
        () = cancel.cancelled() => return Err(Error::Cancelled),
        said = timeout(PATIENCE, exchange.control.recv.recv::<TransferControl>()) => said,
    };
    match said.map_err(|_| Error::protocol(peer, "it does not say what it sends"))?? {
        Some(TransferControl { message: Some(Said::Plan(plan)) }) => {
            let (plan, start) = plans::from_proto(peer, (offered.volume, offered.snapshot), &plan)?;
            if plan.with_mode(offered.mode) != *offered {
                return Err(Error::protocol(peer, "it sends something else than it offered"));
            }
            Ok((plan, start))
        }
        Some(TransferControl { message: Some(Said::Abort(abort)) }) => Err(Error::aborted(peer, abort)),
        _ => Err(Error::protocol(peer, "it does not say what it sends")),
    }
}

async fn prepare_incoming<'a>(
    node: &'a Node,
    link: &Link,
    open: &TransferOpen,
    grant: &Grant,
) -> Result<Incoming<'a>> {
    let peer = link.peer();
    let transfer = transfer_id(link, open)?;
    let plan = open.plan.as_ref().ok_or_else(|| Error::protocol(peer, "it pushes without a plan"))?;
    let (plan, _) = plans::from_proto(peer, (grant.volume, grant.snapshot), plan)?;
    let ours = node.volumes.snapshots(grant.volume).await?;
    if let Some(found) = ours.iter().find(|s| s.id == grant.snapshot) {
        if found.guid != plan.guid {
            let what = format!("it has a different snapshot under the id {}", grant.snapshot);
            return Err(Error::protocol(peer, what));
        }
        let store = node.identity.peer().node;
        let receipt = receipt(store, transfer, (grant.volume, grant.snapshot), found.guid);
        return Ok(Incoming::Already(sign(&node.identity, &receipt)?));
    }
    if plan.kind.base().map(|base| base.snapshot) != grant.base {
        return Err(Error::protocol(peer, "it starts from another base than its ticket says"));
    }
    plans::require_base(&ours, plan.kind.base())?;
    // Before the other end may send any.
    let chunks = link.chunks(transfer.0);
    let joined = node.joins.open(transfer, peer, grant.snapshot)?;
    let mut reception = outset::reception(&node.volumes, grant.volume, grant.snapshot).await?;
    reception.have.retain(|have| Some(have.snapshot) == grant.base);
    Ok(Incoming::New { transfer, joined, chunks, offer: Box::new(Offer { plan, reception }) })
}

// Pull: we send, the peer receives.

/// A pull that was let in.
struct Outgoing<'a> {
    transfer: TransferId,
    joined: (Place<'a>, Joining),
    outset: Outset,
}

async fn outgoing(
    node: &Node,
    link: &Link,
    mut control: Control,
    open: &TransferOpen,
    grant: &Grant,
) -> Result<Outcome> {
    let _active = Active::new();
    let Outgoing { transfer, joined: (_place, joining), outset } =
        match prepare_outgoing(node, link, open, grant).await {
            Ok(prepared) => prepared,
            Err(error) => {
                refuse(&mut control, &error).await;
                return Err(error);
            }
        };
    let accept = TransferAccept { plan: Some(outset.to_proto()), ..TransferAccept::default() };
    let Outset { process, estimate, kept, .. } = outset;
    let mut exchange = Exchange::new(End::Acceptor, transfer, (link, control), joining, &node.stopping);
    exchange.estimate = estimate;
    let result = async {
        reply(&mut exchange.control, Reply::Accept(accept)).await?;
        let sent = sending::send(&mut exchange, process, WINDOW_BYTES).await?;
        Ok(Outcome { result: "done", bytes: sent.fin.bytes })
    };
    let result = result.await;
    kept.end(&result).await;
    conclude(&mut exchange.control, result).await
}

async fn prepare_outgoing<'a>(
    node: &'a Node,
    link: &Link,
    open: &TransferOpen,
    grant: &Grant,
) -> Result<Outgoing<'a>> {
    let transfer = transfer_id(link, open)?;
    let ours = node.volumes.snapshots(grant.volume).await?;
    let target = ours.iter().find(|s| s.id == grant.snapshot).ok_or(Error::NoSnapshot(grant.snapshot))?;
    let receiver = Reception::from_proto(link.peer(), open.reception.as_ref())?;
    let bookmarks = node.volumes.bookmarks(grant.volume).await?;
    let plan = ds_zfs::plan_send_from(target, &ours, &bookmarks, &receiver.have);
    let source = node.volumes.sendable(&plan).await?;
    let full = SendPlan { kind: StreamKind::Full, ..plan };
    let features = node.volumes.features();
    // A chain that cannot go on there ends, and the peer begins another.
    let plan = plans::agree(plan, source, features, &receiver)
        .or_else(|_| plans::agree(full, source, features, &receiver))
        .map_err(|source| ds_zfs::Error::NoMode { volume: grant.volume, source })?;
    // What it began before and lost would keep `zfs send` waiting, and with it whoever changes the volume.
    node.joins.let_go(link.peer().node, grant.snapshot);
    let joined = node.joins.open(transfer, link.peer(), grant.snapshot)?;
    let outset = Outset::send(&node.volumes, plan, &receiver, transfer).await?;
    Ok(Outgoing { transfer, joined, outset })
}
