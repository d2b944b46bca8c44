//! Links that join a transfer while it runs: further lanes, and the one that comes back after its link was lost.
//!
//! At the end that was dialled, [`Joins`] finds the transfer that a new link is for. At the end that opened it, [`grow`]
//! dials. Both hand the link to the transfer through one queue, and the transfer itself lets it in.

use std::{
    collections::HashMap,
    convert::Infallible,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ds_domain::ids::{NodeId, SnapshotId};
use ds_link::{Chunks, Control, Driver, Link, Peer, Transport};
use ds_proto::v1::{
    LaneOpen, StreamOpen, TransferAccept, TransferReply, stream_open::Kind, transfer_reply::Reply,
};
use ds_wire::TransferId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    Error, Result,
    exchange::WINDOW_BYTES,
    trial::{self, Carried},
};

/// Lanes of one transfer, where nobody has settled it.
const MOST_LANES: usize = 16;

/// Links that wait to be taken in; whoever brings another one waits.
const QUEUE: usize = 4;

/// How often it is looked whether one more lane would help, at least: a new one needs so many round trips to show what it can do.
const LOOK: Duration = Duration::from_millis(500);
const ROUND_TRIPS_TO_LOOK: u32 = 50;

/// A transfer that has moved so much, or goes on for as long as one [`LOOK`], is worth a try with another transport.
const WORTH_TRYING_BYTES: u64 = 32 << 20;

/// Between looks at how much that is.
const SOON: Duration = Duration::from_millis(10);

/// Until a new lane has opened its congestion window and has its share of the line. With half as many, a second lane brought pauses of a second
/// on a line of 400 Mbit/s and 100 ms.
const ROUND_TRIPS_TO_OPEN: u32 = 40;

/// A lane stays worth its while if the transfer got faster by this much, in percent.
const WORTH_PERCENT: u64 = 10;

/// How long the other end may take to take a lane in.
const PATIENCE: Duration = Duration::from_secs(10);

/// A link that is part of a transfer now.
#[derive(Debug)]
pub(crate) enum Join {
    /// One more lane.
    Lane { link: Link, chunks: Chunks },
    /// Instead of the link that was lost, with the control stream on it.
    Rejoin { link: Link, chunks: Chunks, control: Control },
}

/// What a link that was dialled later is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Lane,
    Rejoin,
}

/// A link that comes to a transfer. Chunks of it arrive on the link from now on.
#[derive(Debug)]
pub(crate) enum Newcomer {
    /// At the end that was dialled: it waits for an answer.
    Waiting { purpose: Purpose, link: Link, chunks: Chunks, control: Control },
    /// At the end that dialled: the other one has let it in.
    Lane { link: Link, chunks: Chunks },
}

impl Newcomer {
    /// Tells the other end that it is let in, if it waits for that. A lane is driven by `driver` then.
    pub(crate) async fn let_in(self, driver: Driver) -> Result<Join> {
        let (purpose, link, chunks, mut control) = match self {
            Self::Lane { link, chunks } => return Ok(Join::Lane { link, chunks }),
            Self::Waiting { purpose, link, chunks, control } => (purpose, link, chunks, control),
        };
        let accept = TransferReply { reply: Some(Reply::Accept(TransferAccept::default())) };
        control.send.send(&accept).await?;
        Ok(match purpose {
            Purpose::Rejoin => Join::Rejoin { link, chunks, control },
            Purpose::Lane => {
                link.become_lane(control, driver).await?;
                Join::Lane { link, chunks }
            }
        })
    }
}

/// What drives a further lane: the first over TCP is the transfer's own, and further ones have a thread each.
pub(crate) fn driver<'a>(mut lanes: impl Iterator<Item = &'a Link>) -> Driver {
    if lanes.any(|lane| lane.transport() == Transport::Tcp) { Driver::Apart } else { Driver::Here }
}

/// Where a transfer takes links in.
pub(crate) type Joining = mpsc::Receiver<Newcomer>;

pub(crate) fn queue() -> (mpsc::Sender<Newcomer>, Joining) {
    mpsc::channel(QUEUE)
}

/// The transfers of one node that further links may join.
#[derive(Debug, Default)]
pub(crate) struct Joins(Mutex<HashMap<TransferId, Entry>>);

#[derive(Debug)]
struct Entry {
    peer: NodeId,
    snapshot: SnapshotId,
    joins: mpsc::Sender<Newcomer>,
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
        purpose: Purpose,
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
        match transfer.reserve().await {
            Ok(place) => place.send(Newcomer::Waiting { purpose, link, chunks, control }),
            Err(_) => return Err((control, Error::protocol(peer, "it joins a transfer that has ended"))),
        }
        Ok(())
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

/// What a transfer has moved, for whoever decides about its lanes.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Bytes of the stream that have arrived.
    pub(crate) arrived: AtomicU64,
    over_quic: AtomicU64,
    over_tcp: AtomicU64,
}

impl Moved {
    /// A lane carried so many bytes.
    pub(crate) fn carried(&self, transport: Transport, bytes: u64) {
        self.over(transport).fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes that lanes over QUIC and over TCP carried.
    pub(crate) fn carried_by_each(&self) -> Carried {
        let over = |transport| self.over(transport).load(Ordering::Relaxed);
        Carried { quic: over(Transport::Quic), tcp: over(Transport::Tcp) }
    }

    /// The bytes that all lanes over `transport` carried.
    fn over(&self, transport: Transport) -> &AtomicU64 {
        match transport {
            Transport::Quic => &self.over_quic,
            Transport::Tcp => &self.over_tcp,
        }
    }
}

/// Sees to a transfer's lanes at the end that opened it, over `link`: that there is one, that the other transport is tried, and
/// then that there are as many as make it faster. Never completes; end it with the transfer.
pub(crate) async fn grow(
    link: Link,
    transfer: TransferId,
    moved: Arc<Moved>,
    to: mpsc::Sender<Newcomer>,
) -> Infallible {
    let alive = Vec::from_iter(link.is_lane().then(|| link.clone()));
    let mut lanes = Lanes { link, transfer, moved, to, alive };
    lanes.at_least_one().await;
    lanes.try_tcp().await;
    lanes.grow().await
}

/// The lanes that one end has dialled.
struct Lanes {
    link: Link,
    transfer: TransferId,
    moved: Arc<Moved>,
    to: mpsc::Sender<Newcomer>,
    alive: Vec<Link>,
}

impl Lanes {
    /// A link over TCP carries no chunks itself, and lanes can be lost.
    async fn at_least_one(&mut self) {
        loop {
            self.alive.retain(|lane| !lane.is_closed());
            if !self.alive.is_empty() {
                return;
            }
            if let Err(error) = self.add(None).await {
                tracing::debug!(peer = %self.link.peer(), %error, "no lane yet");
                sleep(LOOK).await;
            }
        }
    }

    /// Brings a first lane over TCP to a transfer over QUIC that is worth it, and leaves time to find out which moves more.
    async fn try_tcp(&mut self) {
        let over_tcp = self.link.transport() == Transport::Tcp;
        if over_tcp || !self.link.could_be_over(Transport::Tcp) || self.are_enough() {
            return;
        }
        let deadline = Instant::now() + LOOK;
        while self.moved.arrived.load(Ordering::Relaxed) < WORTH_TRYING_BYTES && Instant::now() < deadline {
            sleep(SOON).await;
        }
        match self.add(Some(Transport::Tcp)).await {
            Ok(()) => sleep(trial::duration(self.link.round_trip())).await,
            // A network may let nothing but UDP through.
            Err(error) => tracing::debug!(peer = %self.link.peer(), %error, "no lane over TCP"),
        }
    }

    /// Adds lanes one by one for as long as each makes the transfer faster, and replaces those that are lost.
    async fn grow(mut self) -> Infallible {
        let mut growth = Growth::default();
        let mut before = self.read();
        loop {
            let from = Instant::now();
            sleep(LOOK.max(ROUND_TRIPS_TO_LOOK * self.link.round_trip())).await;
            self.at_least_one().await;
            let now = self.read();
            let elapsed = u64::try_from(from.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let (arrived, quic, tcp) =
                (now.0 - before.0, now.1.quic - before.1.quic, now.1.tcp - before.1.tcp);
            before = now;
            let rate = arrived / elapsed;
            let lasts = window_lasts(rate * 1000, self.link.round_trip());
            if self.are_enough() || !lasts || !growth.wants_another(rate) {
                continue;
            }
            let carrying = if tcp > quic { Transport::Tcp } else { Transport::Quic };
            if let Err(error) = self.add(Some(carrying)).await {
                // The transfer goes on with the lanes that it has.
                tracing::debug!(peer = %self.link.peer(), %error, "no further lane");
            }
        }
    }

    fn are_enough(&self) -> bool {
        self.alive.len() >= self.link.most_lanes().map_or(MOST_LANES, NonZeroUsize::get)
    }

    /// What has arrived, and by what.
    fn read(&self) -> (u64, Carried) {
        (self.moved.arrived.load(Ordering::Relaxed), self.moved.carried_by_each())
    }

    /// A further lane that the other end has taken in; `None` is over what can be had.
    async fn add(&mut self, transport: Option<Transport>) -> Result<()> {
        let another = match transport {
            Some(transport) => self.link.another_over(transport).await,
            None => self.link.another().await,
        };
        let link = another.ok_or_else(|| Error::protocol(self.link.peer(), "it cannot be dialled"))??;
        let chunks = link.chunks(self.transfer.0);
        let open = LaneOpen { transfer: self.transfer.0.to_vec() };
        let mut control = link.open(&StreamOpen { kind: Some(Kind::Lane(open)) }).await?;
        accepted(&link, &mut control).await?;
        link.become_lane(control, driver(self.alive.iter())).await?;
        self.alive.push(link.clone());
        // Fails only if the transfer has ended, and this ends with it.
        let _ = self.to.send(Newcomer::Lane { link, chunks }).await;
        Ok(())
    }
}

/// Whether a transfer of so many bytes a second can go on over its other lanes until a new one has opened: else the window would
/// end at the chunk that the new one was given, and all would wait for it. On such a path one lane fills a line, and two would only share it.
fn window_lasts(rate: u64, round_trip: Duration) -> bool {
    let opening = ROUND_TRIPS_TO_OPEN * round_trip;
    rate as f64 * opening.as_secs_f64() <= WINDOW_BYTES as f64
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
    fn a_lane_is_not_added_where_all_would_wait_for_it() {
        let gigabit = 125_000_000;
        assert!(window_lasts(gigabit, Duration::from_millis(1)));
        assert!(window_lasts(gigabit, Duration::from_millis(20)));
        assert!(!window_lasts(gigabit, Duration::from_millis(100)));
        assert!(!window_lasts(gigabit * 4 / 10, Duration::from_millis(100)));
        assert!(window_lasts(gigabit / 10, Duration::from_millis(200)));
    }

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
