//! The far end of `ds sync`: trees that lie here under their owners' names.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use ds_domain::{
    TreeName,
    ids::{NodeId, SnapshotId, VolumeId},
};
use ds_link::{Control, Link, Peer};
use ds_proto::v1::{
    Direction, Plan, TransferAccept, TransferReply, TreeChange, TreeMove, TreeOk, TreeOpen, TreeReply,
    transfer_control::Message as Said, transfer_reply, tree_change::Change, tree_open::Request,
    tree_reply::Reply,
};
use ds_wire::TransferId;
use ds_zfs::{
    LocalTree, StreamMode,
    replication::{Expired, Step},
};
use time::UtcOffset;
use uuid::Uuid;

use super::Node;
use crate::{
    Error, Result,
    client::{conclude, receipt},
    error::in_full,
    exchange::{End, Exchange, WINDOW_BYTES, farewell},
    metrics::{self, Active, Way},
    receipt::sign,
    receiving, sending,
    ticket::{Presentation, TreeGrant},
    tree::{
        Pace,
        pump::{Feed, feed},
        words,
    },
};

/// Snapshots that one request lets go.
const MOST_DESTROYED: usize = 1_000;

/// What each peer may fetch of a tree in a second, over all streams.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<HashMap<(NodeId, TreeName, String), Weak<Pace>>>);

impl Paces {
    fn of(&self, peer: Peer, tree: &TreeName, wanted: &TreeMove) -> Result<Option<Arc<Pace>>> {
        if wanted.limits.is_empty() {
            return Ok(None);
        }
        let offset = UtcOffset::from_whole_seconds(wanted.utc_offset_s).unwrap_or(UtcOffset::UTC);
        let read = Pace::read(&wanted.limits, offset);
        let read = read.map_err(|error| Error::protocol(peer, error.to_string()))?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, pace| pace.strong_count() > 0);
        let key = (peer.node, tree.clone(), wanted.limits.clone());
        let known = all.get(&key).and_then(Weak::upgrade);
        Ok(Some(known.unwrap_or_else(|| {
            let pace = Arc::new(read);
            all.insert(key, Arc::downgrade(&pace));
            pace
        })))
    }
}

/// Serves one request.
pub(super) async fn serve(node: &Node, link: &Link, control: Control, open: TreeOpen) {
    if let Err(error) = try_serve(node, link, control, open).await {
        tracing::debug!(peer = %link.peer(), %error, "a stream broke");
    }
}

/// An error is one of the link.
async fn try_serve(node: &Node, link: &Link, control: Control, open: TreeOpen) -> Result<()> {
    let peer = link.peer();
    let grant = match admit(node, link, &open) {
        Ok(grant) => grant,
        Err(error) => return refuse(control, &error).await,
    };
    let tree = node.volumes.tree(&grant.tree);
    match open.request {
        Some(Request::List(_)) => list(&tree, control).await,
        Some(Request::Move(wanted)) => {
            let way = if grant.direction == Direction::Push { Way::In } else { Way::Out };
            note(peer, &grant, way, transfer(node, link, control, &tree, &grant, wanted).await);
            Ok(())
        }
        Some(Request::Change(change)) if grant.direction == Direction::Push => {
            match carry_out(&tree, change).await {
                Ok(ok) => answer(control, Reply::Ok(ok)).await,
                Err(error) => refuse(control, &error).await,
            }
        }
        Some(Request::Change(_)) => {
            let error = Error::protocol(peer, "it would change what it may only fetch");
            refuse(control, &error).await
        }
        None => {
            let error = Error::protocol(peer, "a request that is empty, or of a newer version");
            refuse(control, &error).await
        }
    }
}

/// Counts and logs how a stream ended.
fn note(peer: Peer, grant: &TreeGrant, way: Way, moved: Result<u64>) {
    let tree = &grant.tree;
    match moved {
        Ok(bytes) => {
            tracing::info!(%peer, tree.name = %tree, direction = ?way, size_bytes = bytes, "stream of a tree done");
            metrics::transfer_ended(way, "done", bytes);
        }
        Err(error) => {
            let why = in_full(&error);
            tracing::warn!(%peer, tree.name = %tree, direction = ?way, error = why, "stream of a tree failed");
            metrics::transfer_ended(way, error.label(), 0);
        }
    }
}

fn admit(node: &Node, link: &Link, open: &TreeOpen) -> Result<TreeGrant> {
    let presentation = Presentation {
        peer: link.peer().node,
        store: node.identity.peer().node,
        now_ms: node.clock.now_ms(),
        remembered_since_ms: node.clock.started_ms(),
    };
    let ticket = open.ticket.as_ref().ok_or_else(|| Error::protocol(link.peer(), "it brings no ticket"))?;
    Ok(node.tickets.verify_tree(ticket, &presentation)?)
}

async fn answer(mut control: Control, reply: Reply) -> Result<()> {
    control.send.send(&TreeReply { reply: Some(reply) }).await?;
    farewell(&mut control).await;
    Ok(())
}

async fn refuse(control: Control, error: &Error) -> Result<()> {
    tracing::warn!(error = in_full(error), "refused a request for a tree");
    answer(control, Reply::Abort(error.to_abort())).await
}

async fn list(tree: &LocalTree, mut control: Control) -> Result<()> {
    let listed = match tree.list().await {
        Ok(listed) => listed,
        Err(error) => return refuse(control, &error.into()).await,
    };
    let ok = TreeOk { zfs: Some(words::abilities_to_proto(tree.features())), destroyed: 0 };
    control.send.send(&TreeReply { reply: Some(Reply::Ok(ok)) }).await?;
    for part in listed.datasets().iter().flat_map(words::parts) {
        control.send.send(&part).await?;
    }
    farewell(&mut control).await;
    Ok(())
}

async fn carry_out(tree: &LocalTree, change: TreeChange) -> Result<TreeOk> {
    let destroyed = match change.change {
        Some(Change::MakePlace(path)) => tree.make_place(&path).await.map(|()| 0)?,
        Some(Change::Abandon(path)) => tree.abandon(&path).await.map(|()| 0)?,
        Some(Change::Destroy(some)) => {
            let mut expired = Expired { path: some.path, snapshots: some.snapshots };
            expired.snapshots.truncate(MOST_DESTROYED);
            tree.destroy_snapshots(&expired).await?
        }
        None => 0,
    };
    Ok(TreeOk { zfs: None, destroyed })
}

/// One stream, of which it gives the bytes.
async fn transfer(
    node: &Node,
    link: &Link,
    mut control: Control,
    tree: &LocalTree,
    grant: &TreeGrant,
    wanted: TreeMove,
) -> Result<u64> {
    link.keep_alive(&mut control);
    let _active = Active::new();
    let peer = link.peer();
    let read = || {
        let transfer = wanted.transfer.as_slice().try_into().map(TransferId);
        let transfer = transfer.map_err(|_| Error::protocol(peer, "its transfer has no id"))?;
        let mode = wanted.mode.parse().map_err(|_| Error::protocol(peer, "a mode that is none"))?;
        let step = wanted.step.clone().ok_or_else(|| Error::protocol(peer, "a stream of nothing"))?;
        Ok((transfer, mode, words::step_from_proto(peer, step)?, node.peers.begin_transfer(peer.node)?))
    };
    let (transfer, mode, step, _place) = match read() {
        Ok(read) => read,
        Err(error) => {
            refuse_move(&mut control, &error).await;
            return Err(error);
        }
    };
    let (path, source_path) = (wanted.path.clone(), wanted.source_path.clone());
    let stream = Stream { transfer, path, source_path, step, mode };
    if grant.direction == Direction::Push {
        return incoming(node, link, control, tree, stream).await;
    }
    let pace = node.paces.of(peer, &grant.tree, &wanted);
    outgoing(node, link, control, tree, stream, pace).await
}

struct Stream {
    transfer: TransferId,
    path: String,
    source_path: String,
    step: Step,
    mode: StreamMode,
}

impl Stream {
    /// Stands for the snapshot where those of volumes have ids.
    fn stand_in(&self) -> SnapshotId {
        SnapshotId(Uuid::from_u64_pair(0, self.step.brings().map_or(0, |to| to.guid.0)))
    }
}

async fn refuse_move(control: &mut Control, error: &Error) {
    let reply = TransferReply { reply: Some(transfer_reply::Reply::Abort(error.to_abort())) };
    // An end that is gone need not be told.
    let _ = control.send.send(&reply).await;
    farewell(control).await;
}

async fn accept(control: &mut Control, plan: Option<Plan>, window_bytes: u64) -> Result<()> {
    let accept = TransferAccept { plan, window_bytes, ..TransferAccept::default() };
    Ok(control.send.send(&TransferReply { reply: Some(transfer_reply::Reply::Accept(accept)) }).await?)
}

async fn incoming(
    node: &Node,
    link: &Link,
    mut control: Control,
    tree: &LocalTree,
    stream: Stream,
) -> Result<u64> {
    let peer = link.peer();
    let prepared = async {
        // Before the other end may send any.
        let chunks = link.chunks(stream.transfer.0);
        let intake = tree.receive(&stream.path, &stream.source_path, &stream.step, stream.mode).await?;
        Ok((chunks, intake, node.joins.open(stream.transfer, peer, stream.stand_in())?))
    };
    let (chunks, intake, (_place, joining)) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => {
            if matches!(error, Error::Volumes(ds_zfs::Error::TreeUnderWay { .. })) {
                // Its opener began anew, and will not come back to the old one.
                node.joins.let_go(peer.node, stream.stand_in());
            }
            refuse_move(&mut control, &error).await;
            return Err(error);
        }
    };
    let mut exchange =
        Exchange::new(End::Acceptor, stream.transfer, (link, control), joining, &node.stopping);
    let received = async {
        accept(&mut exchange.control, None, WINDOW_BYTES).await?;
        let received = receiving::receive(&mut exchange, chunks, intake, None).await?;
        let nameless = (VolumeId(Uuid::nil()), SnapshotId(Uuid::nil()));
        let mut receipt = receipt(node.identity.peer().node, stream.transfer, nameless, received.guid);
        receipt.stream_bytes = received.fin.bytes;
        receipt.digest = received.fin.digest.0.to_vec();
        exchange.tell(Said::Receipt(sign(&node.identity, &receipt)?)).await?;
        Ok(received.fin.bytes)
    };
    let received = received.await;
    conclude(&mut exchange.control, received).await
}

async fn outgoing(
    node: &Node,
    link: &Link,
    mut control: Control,
    tree: &LocalTree,
    stream: Stream,
    pace: Result<Option<Arc<Pace>>>,
) -> Result<u64> {
    let prepared = async {
        let pace = pace?;
        let estimate = tree.estimate(&stream.path, &stream.step, stream.mode).await?;
        // Its opener will not come back to an earlier one.
        node.joins.let_go(link.peer().node, stream.stand_in());
        let joined = node.joins.open(stream.transfer, link.peer(), stream.stand_in())?;
        Ok((pace, estimate, joined, tree.send(&stream.path, &stream.step, stream.mode).await?))
    };
    let (pace, estimate, (_place, joining), source) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => {
            refuse_move(&mut control, &error).await;
            return Err(error);
        }
    };
    let mut exchange =
        Exchange::new(End::Acceptor, stream.transfer, (link, control), joining, &node.stopping);
    exchange.estimate = estimate;
    let sent = async {
        let plan = Plan { estimate_bytes: estimate.unwrap_or(0), ..Plan::default() };
        accept(&mut exchange.control, Some(plan), 0).await?;
        let Feed { mut pipes, whole, pumping } = feed(source, 1, pace.as_deref())?;
        let pipe = pipes.remove(0);
        let whole = async { Ok(whole.await?) };
        tokio::select! {
            sent = sending::send_from(&mut exchange, pipe, whole, WINDOW_BYTES) => Ok(sent?.fin.bytes),
            never = pumping => match never {},
        }
    };
    let sent = sent.await;
    conclude(&mut exchange.control, sent).await
}
