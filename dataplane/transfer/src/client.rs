//! The end that opens a transfer: a runner, or a store that fetches from another.

use std::{fmt, sync::Arc};

use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Control, Link, Peer, Role, apart};
use ds_proto::v1::{
    Direction, Receipt, SignedReceipt, SignedTicket, StreamOpen, TransferAccept, TransferOpen, TransferReply,
    stream_open::Kind, transfer_control::Message as Said, transfer_reply::Reply,
};
use ds_wire::TransferId;
use ds_zfs::{Bookmark, Have, SendPlan, Snapshot, SnapshotGuid, Volumes};
use prost::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error, Result,
    exchange::{self, End, Exchange, WINDOW_BYTES, farewell},
    joins,
    outset::{self, Outset},
    plans::{self, Reception, Start},
    receipt::unsigned,
    receiving, sending,
    ticket::Grant,
};

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the stream that are written at the receiver.
    pub bytes: u64,
    /// The stream's expected length, where the sender knows one; a few per cent off.
    pub estimate: Option<u64>,
}

/// Fetches `snapshot` of `volume` from the store at the other end of `link` into a branch on our pool.
///
/// Having it already is success, with a receipt of 0 stream bytes. The stream starts from the newest snapshot that both
/// ends have, or where an earlier pull broke off whose part is still here (on OpenZFS). On an error nothing of it
/// remains here but such a part. A second pull of the same snapshot at the same time is `Busy`.
pub async fn pull(
    link: &Link,
    volumes: &Volumes,
    ticket: SignedTicket,
    volume: VolumeId,
    snapshot: SnapshotId,
    progress: impl Fn(Progress) + Send + Sync + 'static,
    cancel: &CancellationToken,
) -> Result<Receipt> {
    let (link, volumes, cancel) = (link.clone(), volumes.clone(), cancel.clone());
    let pulling =
        async move { pull_here(&link, &volumes, ticket, (volume, snapshot), &progress, &cancel).await };
    apart(pulling).await.map_err(Error::Thread)?
}

async fn pull_here(
    link: &Link,
    volumes: &Volumes,
    ticket: SignedTicket,
    (volume, snapshot): (VolumeId, SnapshotId),
    progress: &(dyn Fn(Progress) + Send + Sync),
    cancel: &CancellationToken,
) -> Result<Receipt> {
    Grant::peek_for(&ticket, Direction::Pull, volume, snapshot)?;
    let ours = outset::reception(volumes, volume, snapshot).await?;
    if let Some(found) = ours.have.iter().find(|have| have.snapshot == snapshot) {
        return Ok(receipt(link.peer().node, new_transfer(), (volume, snapshot), found.guid));
    }
    let transfer = new_transfer();
    let open = TransferOpen {
        transfer: transfer.0.to_vec(),
        ticket: Some(ticket),
        plan: None,
        reception: Some(ours.to_proto()),
    };
    // Before the other end may send any.
    let chunks = link.chunks(transfer.0);
    let mut control = exchange::open(link, &StreamOpen { kind: Some(Kind::Transfer(open)) }).await?;
    let accept = match reply(link.peer(), &mut control).await? {
        Reply::Accept(accept) => accept,
        Reply::Already(_) => return Err(Error::protocol(link.peer(), "a receipt for what it should send")),
        Reply::Abort(abort) => return Err(Error::aborted(link.peer(), abort)),
    };
    let (joins, joining) = joins::queue();
    let mut exchange = Exchange::new(End::Opener, transfer, (link, control), joining, cancel);
    exchange.progress = progress;
    let growing = joins::grow(link.clone(), transfer, Arc::clone(&exchange.moved), joins);
    let result = tokio::select! {
        result = fetch(&mut exchange, volumes, (volume, snapshot), accept, chunks) => result,
        never = growing => match never {},
    };
    conclude(&mut exchange.control, result).await
}

async fn fetch(
    exchange: &mut Exchange<'_>,
    volumes: &Volumes,
    (volume, snapshot): (VolumeId, SnapshotId),
    accept: TransferAccept,
    chunks: ds_link::Chunks,
) -> Result<Receipt> {
    let peer = exchange.link.peer();
    let plan = accept.plan.ok_or_else(|| Error::protocol(peer, "it sends without a plan"))?;
    exchange.estimate = (plan.estimate_bytes > 0).then_some(plan.estimate_bytes);
    let (plan, start) = plans::from_proto(peer, (volume, snapshot), &plan)?;
    let intake = outset::make_room(volumes, &plan, start).await?;
    let received = receiving::receive(exchange, chunks, intake, None).await?;
    let mut receipt = receipt(peer.node, exchange.transfer, (volume, snapshot), received.guid);
    receipt.stream_bytes = received.fin.bytes;
    receipt.digest = received.fin.digest.0.to_vec();
    exchange.tell(Said::Receipt(unsigned(&receipt))).await?;
    Ok(receipt)
}

/// Brings `snapshot` of `volume` to the store at the other end of `link`, from the base that the ticket names. If the
/// base is gone here, its bookmark will do; if the store has a part of the snapshot, only the rest is sent (both on
/// OpenZFS).
///
/// Returns the store's signed receipt, which the hub believes; also where the store had the snapshot already.
pub async fn push(
    link: &Link,
    volumes: &Volumes,
    ticket: SignedTicket,
    volume: VolumeId,
    snapshot: SnapshotId,
    progress: impl Fn(Progress) + Send + Sync + 'static,
    cancel: &CancellationToken,
) -> Result<SignedReceipt> {
    let (link, volumes, cancel) = (link.clone(), volumes.clone(), cancel.clone());
    let pushing =
        async move { push_here(&link, &volumes, ticket, (volume, snapshot), &progress, &cancel).await };
    apart(pushing).await.map_err(Error::Thread)?
}

async fn push_here(
    link: &Link,
    volumes: &Volumes,
    ticket: SignedTicket,
    (volume, snapshot): (VolumeId, SnapshotId),
    progress: &(dyn Fn(Progress) + Send + Sync),
    cancel: &CancellationToken,
) -> Result<SignedReceipt> {
    let base = Grant::peek_for(&ticket, Direction::Push, volume, snapshot)?.base;
    let ours = volumes.snapshots(volume).await?;
    let target = ours.iter().find(|s| s.id == snapshot).ok_or(Error::NoSnapshot(snapshot))?;
    let plan = plan_push(base, target, &ours, &volumes.bookmarks(volume).await?)?;
    let transfer = new_transfer();
    let open = TransferOpen {
        transfer: transfer.0.to_vec(),
        ticket: Some(ticket),
        plan: Some(plans::to_proto(&plan, Start::Anew, None)),
        reception: None,
    };
    let mut control = exchange::open(link, &StreamOpen { kind: Some(Kind::Transfer(open)) }).await?;
    let wanted = Wanted { store: link.peer(), snapshot, volume, guid: target.guid };
    let accept = match reply(link.peer(), &mut control).await? {
        Reply::Accept(accept) => accept,
        Reply::Already(receipt) => return wanted.check(receipt, None),
        Reply::Abort(abort) => return Err(Error::aborted(link.peer(), abort)),
    };
    let (joins, joining) = joins::queue();
    let mut exchange = Exchange::new(End::Opener, transfer, (link, control), joining, cancel);
    exchange.progress = progress;
    let growing = joins::grow(link.clone(), transfer, Arc::clone(&exchange.moved), joins);
    let result = tokio::select! {
        result = bring(&mut exchange, volumes, plan, &accept, &wanted) => result,
        never = growing => match never {},
    };
    conclude(&mut exchange.control, result).await
}

async fn bring(
    exchange: &mut Exchange<'_>,
    volumes: &Volumes,
    plan: SendPlan,
    accept: &TransferAccept,
    wanted: &Wanted,
) -> Result<SignedReceipt> {
    let receiver = Reception::from_proto(wanted.store, accept.reception.as_ref())?;
    let source = volumes.sendable(&plan).await?;
    let plan = plans::agree(plan, source, volumes.features(), &receiver)
        .map_err(|source| ds_zfs::Error::NoMode { volume: plan.volume, source })?;
    let outset = Outset::send(volumes, plan, &receiver, exchange.transfer).await?;
    exchange.estimate = outset.estimate;
    let announced = Said::Plan(outset.to_proto());
    let Outset { process, kept, .. } = outset;
    let sending = async {
        exchange.tell(announced).await?;
        let sent = sending::send(exchange, process, accept.window_bytes.min(WINDOW_BYTES)).await?;
        wanted.check(sent.receipt, Some(sent.fin))
    };
    let result = sending.await;
    kept.end(&result).await;
    result
}

/// The stream from `base`, which the store is known to have as the newest of a filesystem or as an origin.
fn plan_push(
    base: Option<SnapshotId>,
    target: &Snapshot,
    ours: &[Snapshot],
    bookmarks: &[Bookmark],
) -> Result<SendPlan> {
    let known = ours.iter().map(|s| (s.id, s.guid)).chain(bookmarks.iter().map(|b| (b.snapshot, b.guid)));
    let theirs: Vec<_> = known
        .filter(|(id, _)| Some(*id) == base)
        .map(|(snapshot, guid)| Have { snapshot, guid, tip: true, mode: None })
        .collect();
    let plan = ds_zfs::plan_send_from(target, ours, bookmarks, &theirs);
    match base {
        Some(base) if plan.kind.base().is_none() => Err(Error::NoBase(base)),
        _ => Ok(plan),
    }
}

/// Tells the other end why, if it failed here, and lets the last words arrive.
pub(crate) async fn conclude<T>(control: &mut Control, result: Result<T>) -> Result<T> {
    let knows = |error: &Error| match error {
        Error::Aborted { .. } => true,
        // Where the link is gone there is nobody to tell.
        Error::Link(error) => error.is_retryable(),
        _ => false,
    };
    if let Err(error) = &result
        && !knows(error)
    {
        let abort = ds_proto::v1::TransferControl { message: Some(Said::Abort(error.to_abort())) };
        // The link may be gone, which tells the other end as well.
        let _ = control.send.send(&abort).await;
    }
    farewell(control).await;
    result
}

async fn reply(peer: Peer, control: &mut Control) -> Result<Reply> {
    let reply = control.recv.recv::<TransferReply>().await?;
    reply
        .and_then(|r| r.reply)
        .ok_or_else(|| Error::protocol(peer, "it does not answer a transfer's opening"))
}

fn new_transfer() -> TransferId {
    TransferId(Uuid::new_v4().into_bytes())
}

/// A receipt without a stream: for what was here already.
pub(crate) fn receipt(
    store: NodeId,
    transfer: TransferId,
    (volume, snapshot): (VolumeId, SnapshotId),
    guid: SnapshotGuid,
) -> Receipt {
    Receipt {
        transfer: transfer.0.to_vec(),
        store: store.to_bytes(),
        volume: volume.to_bytes(),
        snapshot: snapshot.to_bytes(),
        guid: guid.0,
        stream_bytes: 0,
        digest: Vec::new(),
    }
}

/// What a store's receipt must say.
struct Wanted {
    store: Peer,
    volume: VolumeId,
    snapshot: SnapshotId,
    guid: SnapshotGuid,
}

impl Wanted {
    /// The signature is the hub's to verify; here only that the receipt is about what was sent.
    fn check(&self, signed: SignedReceipt, sent: Option<ds_wire::Fin>) -> Result<SignedReceipt> {
        let wrong = |what: &dyn fmt::Display| Error::protocol(self.store, format!("its receipt {what}"));
        let receipt = Receipt::decode(signed.payload.as_slice()).map_err(|e| wrong(&e))?;
        let author = Peer::from_certificate(&signed.certificate).map_err(|e| wrong(&e))?;
        if author != self.store || author.role != Role::Store || receipt.store != self.store.node.to_bytes() {
            return Err(wrong(&"is another node's"));
        }
        if receipt.volume != self.volume.to_bytes() || receipt.snapshot != self.snapshot.to_bytes() {
            return Err(wrong(&"is for another snapshot"));
        }
        if receipt.guid != self.guid.0 {
            return Err(wrong(&"shows another GUID: the store has a different snapshot under this id"));
        }
        if sent.is_some_and(|fin| receipt.digest != fin.digest.0) {
            return Err(wrong(&"shows another digest"));
        }
        Ok(signed)
    }
}
