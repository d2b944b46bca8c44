//! Links that join a transfer while it runs: further lanes, and the one that comes back after its link was lost.
//!
//! At the end that was dialled, [`Joins`] finds the transfer that a new link is for. At the end that opened it, [`grow`]
//! dials. Both hand the link to the transfer through one queue, and the transfer itself answers on it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ds_domain::ids::{NodeId, SnapshotId};
use ds_link::{Chunks, Control, Link, Peer};
use ds_proto::v1::{LaneOpen, StreamOpen, TransferReply, stream_open::Kind, transfer_reply::Reply};
use ds_wire::TransferId;
use tokio::{
    sync::mpsc,
    time::{Instant, interval, timeout},
};

use crate::{Error, Result};

/// Lanes of one transfer beside the link that it was opened on.
pub(crate) const MOST_FURTHER_LANES: usize = 15;

/// Links that wait to be taken in; whoever brings another one waits.
const QUEUE: usize = 4;

/// How often it is looked whether one more lane would help.
const LOOK: Duration = Duration::from_millis(500);

/// A lane stays worth its while if the transfer got faster by this much, in percent.
const WORTH_PERCENT: u64 = 10;

/// How long the other end may take to take a lane in.
const PATIENCE: Duration = Duration::from_secs(10);

/// A link for a transfer, with the stream that says so.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) kind: JoinKind,
    pub(crate) link: Link,
    pub(crate) control: Control,
    /// Where the transfer's chunks arrive on it.
    pub(crate) chunks: Chunks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinKind {
    /// One more lane.
    Lane,
    /// Instead of the link that was lost.
    Rejoin,
}

/// Where a transfer takes links in.
pub(crate) type Joining = mpsc::Receiver<Join>;

pub(crate) fn queue() -> (mpsc::Sender<Join>, Joining) {
    mpsc::channel(QUEUE)
}

/// The transfers of one node that further links may join.
#[derive(Debug, Default)]
pub(crate) struct Joins(Mutex<HashMap<TransferId, Entry>>);

#[derive(Debug)]
struct Entry {
    peer: NodeId,
    snapshot: SnapshotId,
    joins: mpsc::Sender<Join>,
}

impl Joins {
    /// Links of `peer` may join `transfer`, of `snapshot`, until the place is dropped.
    pub(crate) fn open(
        &self,
        transfer: TransferId,
        peer: Peer,
        snapshot: SnapshotId,
    ) -> Result<(Place<'_>, Joining)> {
        let mut table = self.table();
        if table.contains_key(&transfer) {
            return Err(Error::protocol(peer, "it uses the id of another transfer"));
        }
        let (joins, joining) = queue();
        table.insert(transfer, Entry { peer: peer.node, snapshot, joins });
        Ok((Place { joins: self, transfer }, joining))
    }

    /// Hands a link over, with its stream. An error comes with the stream, to say it on.
    pub(crate) async fn bring(
        &self,
        kind: JoinKind,
        transfer: &[u8],
        link: Link,
        control: Control,
    ) -> std::result::Result<(), (Control, Error)> {
        let peer = link.peer();
        let id: Option<TransferId> = transfer.try_into().ok().map(TransferId);
        let found = id.and_then(|id| {
            let table = self.table();
            table.get(&id).filter(|entry| entry.peer == peer.node).map(|entry| entry.joins.clone())
        });
        let (Some(id), Some(transfer)) = (id, found) else {
            return Err((control, Error::protocol(peer, "it joins a transfer that is not under way here")));
        };
        // Before the answer, after which chunks may come.
        let chunks = link.chunks(id.0);
        let brought = transfer.send(Join { kind, link, control, chunks }).await;
        brought.map_err(|gone| (gone.0.control, Error::protocol(peer, "it joins a transfer that has ended")))
    }

    /// Says that `peer` begins anew with `snapshot`: an earlier transfer of it that lost its link is not waited for any more. One
    /// that is well goes on, without further lanes.
    pub(crate) fn let_go(&self, peer: NodeId, snapshot: SnapshotId) {
        self.table().retain(|_, entry| entry.peer != peer || entry.snapshot != snapshot);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<TransferId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer that can be joined.
pub(crate) struct Place<'a> {
    joins: &'a Joins,
    transfer: TransferId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.joins.table().remove(&self.transfer);
    }
}

/// Dials further lanes one by one, for as long as each makes the transfer faster. Never completes; end it with the transfer.
pub(crate) async fn grow(
    link: Link,
    transfer: TransferId,
    moved: Arc<AtomicU64>,
    to: mpsc::Sender<Join>,
) -> std::convert::Infallible {
    let mut looks = interval(LOOK);
    looks.tick().await;
    let (mut lanes, mut before) = (0, 0);
    let mut growth = Growth::default();
    while lanes < MOST_FURTHER_LANES {
        let from = Instant::now();
        looks.tick().await;
        let now = moved.load(Ordering::Relaxed);
        let elapsed = u64::try_from(from.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = (now - before) / elapsed;
        before = now;
        if !growth.wants_another(rate) {
            continue;
        }
        match lane(&link, transfer).await {
            Ok(join) => match to.send(join).await {
                Ok(()) => lanes += 1,
                Err(_) => break,
            },
            Err(error) => {
                // The transfer goes on with the lanes that it has.
                tracing::debug!(peer = %link.peer(), %error, "no further lane");
                break;
            }
        }
    }
    std::future::pending().await
}

/// Whether one more lane is worth its while. Pure.
#[derive(Debug, Default)]
struct Growth {
    /// The best rate so far, with the lanes of then.
    best: u64,
    /// Looks in a row that were no better.
    misses: u32,
}

impl Growth {
    /// Told the last rate, in any unit, it says whether to add a lane now. After three looks without gain, never again.
    fn wants_another(&mut self, rate: u64) -> bool {
        if rate == 0 || self.misses >= 3 {
            return false;
        }
        if rate * 100 >= self.best * (100 + WORTH_PERCENT) {
            (self.best, self.misses) = (rate, 0);
            return true;
        }
        self.misses += 1;
        false
    }
}

/// A further lane that the other end has taken in.
async fn lane(link: &Link, transfer: TransferId) -> Result<Join> {
    let another =
        link.another().await.ok_or_else(|| Error::protocol(link.peer(), "it cannot be dialled"))??;
    let chunks = another.chunks(transfer.0);
    let open = StreamOpen { kind: Some(Kind::Lane(LaneOpen { transfer: transfer.0.to_vec() })) };
    let mut control = another.open(&open).await?;
    accepted(&another, &mut control).await?;
    Ok(Join { kind: JoinKind::Lane, link: another, control, chunks })
}

/// Waits for the other end's word that it took a joining link in.
pub(crate) async fn accepted(link: &Link, control: &mut Control) -> Result<()> {
    let peer = link.peer();
    let silent = ds_link::Error::TimedOut { who: peer.to_string() };
    match timeout(PATIENCE, control.recv.recv::<TransferReply>()).await.map_err(|_| silent)?? {
        Some(TransferReply { reply: Some(Reply::Accept(_)) }) => Ok(()),
        Some(TransferReply { reply: Some(Reply::Abort(abort)) }) => Err(Error::aborted(peer, abort)),
        _ => Err(Error::protocol(peer, "it does not answer a joining link")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_added_while_each_makes_it_faster() {
        let mut growth = Growth::default();
        let asked: Vec<_> =
            [0, 100, 180, 260, 270, 265, 300, 268, 1000].map(|r| growth.wants_another(r)).into();
        assert_eq!(asked, [false, true, true, true, false, false, true, false, true]);
        let mut steady = Growth::default();
        let asked: Vec<_> = [100, 100, 101, 99, 1000].map(|r| steady.wants_another(r)).into();
        assert_eq!(asked, [true, false, false, false, false]);
    }
}
