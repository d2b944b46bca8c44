//! The store's end of a transfer.

use ds_link::{Chunks, Control, Link};
use ds_proto::v1::{
    Direction, Plan, SignedReceipt, TransferAccept, TransferOpen, TransferReply,
    transfer_control::Message as Said, transfer_reply::Reply,
};
use ds_wire::TransferId;
use ds_zfs::{Intake, Sending};

use super::Node;
use crate::{
    Error, Result,
    client::{conclude, receipt},
    error::in_full,
    exchange::{End, Exchange, WINDOW_BYTES, farewell},
    joins::{Joining, Place},
    metrics::{self, Active, Way},
    plans,
    receipt::sign,
    receiving, sending,
    ticket::{Grant, Presentation},
};

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
    New { transfer: TransferId, joined: (Place<'a>, Joining), chunks: Chunks, intake: Box<Intake> },
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
        Ok(Incoming::New { transfer, joined: (_place, joining), chunks, intake }) => {
            let mut exchange =
                Exchange::new(End::Acceptor, transfer, (link, control), joining, &node.io, &node.stopping);
            let result = take_in(node, &mut exchange, grant, chunks, *intake).await;
            conclude(&mut exchange.control, result).await
        }
        Err(error) => {
            refuse(&mut control, &error).await;
            Err(error)
        }
    };
    claim.settle();
    result
}

async fn take_in(
    node: &Node,
    exchange: &mut Exchange<'_>,
    grant: &Grant,
    chunks: Chunks,
    intake: Intake,
) -> Result<Outcome> {
    reply(&mut exchange.control, Reply::Accept(TransferAccept { plan: None, window_bytes: WINDOW_BYTES }))
        .await?;
    let received = receiving::receive(exchange, chunks, intake).await?;
    let store = node.identity.peer().node;
    let mut receipt = receipt(store, exchange.transfer, (grant.volume, grant.snapshot), received.guid);
    receipt.stream_bytes = received.fin.bytes;
    receipt.digest = received.fin.digest.0.to_vec();
    exchange.tell(Said::Receipt(sign(&node.identity, &receipt)?)).await?;
    Ok(Outcome { result: "done", bytes: received.fin.bytes })
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
    let plan = plans::from_proto(peer, (grant.volume, grant.snapshot), plan)?;
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
    let intake = Box::new(node.volumes.receive(&plan).await?);
    Ok(Incoming::New { transfer, joined, chunks, intake })
}

// Pull: we send, the peer receives.

/// A pull that was let in.
struct Outgoing<'a> {
    transfer: TransferId,
    joined: (Place<'a>, Joining),
    plan: Plan,
    process: Sending,
}

async fn outgoing(
    node: &Node,
    link: &Link,
    mut control: Control,
    open: &TransferOpen,
    grant: &Grant,
) -> Result<Outcome> {
    let _active = Active::new();
    let Outgoing { transfer, joined: (_place, joining), plan, process } =
        match prepare_outgoing(node, link, open, grant).await {
            Ok(prepared) => prepared,
            Err(error) => {
                refuse(&mut control, &error).await;
                return Err(error);
            }
        };
    let estimate = (plan.estimate_bytes > 0).then_some(plan.estimate_bytes);
    let accept = TransferAccept { plan: Some(plan), window_bytes: 0 };
    let mut exchange =
        Exchange::new(End::Acceptor, transfer, (link, control), joining, &node.io, &node.stopping);
    exchange.estimate = estimate;
    let result = async {
        reply(&mut exchange.control, Reply::Accept(accept)).await?;
        let sent = sending::send(&mut exchange, process, WINDOW_BYTES).await?;
        Ok(Outcome { result: "done", bytes: sent.fin.bytes })
    };
    let result = result.await;
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
    let theirs = plans::have_from_proto(link.peer(), &open.have)?;
    let plan = ds_zfs::plan_send(target, &ours, &theirs);
    let estimate = node.volumes.estimate(&plan).await?;
    let joined = node.joins.open(transfer, link.peer(), grant.snapshot)?;
    let process = node.volumes.send(&plan).await?;
    Ok(Outgoing { transfer, joined, plan: plans::to_proto(&plan, estimate), process })
}
