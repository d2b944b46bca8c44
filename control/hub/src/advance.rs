//! Moves the store's main lines to where the heads are.
//!
//! The head in the database is what counts; the store follows, in the order in which the heads moved. What it
//! has not followed when the hub stops, or what nobody was left to say, is asked for again: all heads are, at
//! the start and every ten minutes.

use std::{
    collections::{HashSet, VecDeque},
    sync::Mutex,
    time::Duration,
};

use ds_domain::{SnapshotId, VolumeId};
use tokio::{sync::Notify, time::Instant};

use crate::{core::Core, error::chain, store_clock::store_answers};

/// Between two attempts while the store does not do it.
const RETRY: Duration = Duration::from_secs(5);
/// Between two times that all heads are asked for.
const ROUND: Duration = Duration::from_mins(10);

/// The moves that the store has yet to make. Bounded by the tasks and uploads that finish while the store is
/// away.
#[derive(Default)]
pub(crate) struct Advances {
    pending: Mutex<VecDeque<Move>>,
    added: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Move {
    volume: VolumeId,
    snapshot: SnapshotId,
    /// Set once it failed: not before.
    not_before: Option<Instant>,
}

impl Advances {
    pub(crate) fn add(&self, volume: VolumeId, snapshot: SnapshotId) {
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        if !pending.iter().any(|known| (known.volume, known.snapshot) == (volume, snapshot)) {
            pending.push_back(Move { volume, snapshot, not_before: None });
        }
        self.added.notify_one();
    }

    /// The next move whose time has come, as soon as there is one. A volume's moves keep their order; one in
    /// trouble does not hold up the others.
    async fn next(&self) -> Move {
        loop {
            let firsts = self.firsts();
            let now = Instant::now();
            if let Some(due) = firsts.iter().find(|first| first.not_before.is_none_or(|at| at <= now)) {
                return *due;
            }
            let earliest = firsts.iter().filter_map(|first| first.not_before).min();
            tokio::select! {
                () = self.added.notified() => {}
                () = tokio::time::sleep_until(earliest.unwrap_or(now)), if earliest.is_some() => {}
            }
        }
    }

    /// The first move of each volume.
    fn firsts(&self) -> Vec<Move> {
        let pending = self.pending.lock().expect("no holder of this lock panics");
        let mut volumes = HashSet::new();
        pending.iter().filter(|first| volumes.insert(first.volume)).copied().collect()
    }

    fn done(&self, made: Move) {
        self.pending.lock().expect("no holder of this lock panics").retain(|known| *known != made);
    }

    fn postpone(&self, failed: Move) {
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        for known in pending.iter_mut().filter(|known| **known == failed) {
            known.not_before = Some(Instant::now() + RETRY);
        }
    }
}

/// Asks the store for every move until it has made it. Ends when the hub stops.
pub(crate) async fn run(core: &Core) {
    tokio::select! {
        () = core.shutdown.cancelled() => {}
        () = follow(core) => {}
    }
}

async fn follow(core: &Core) {
    let mut rounds = tokio::time::interval(ROUND);
    loop {
        tokio::select! {
            // First, so that a queue that is never empty does not keep the heads from being read.
            biased;
            _ = rounds.tick() => {
                if let Err(error) = add_all_heads(core).await {
                    tracing::warn!(error = %chain(&error), "cannot read the heads: trying again");
                    rounds.reset_after(RETRY);
                }
            }
            next = core.advances.next() => advance(core, next).await,
        }
    }
}

async fn advance(core: &Core, next: Move) {
    let Move { volume, snapshot, .. } = next;
    store_answers(core).await;
    match core.store.advance(volume, snapshot).await {
        Ok(()) => core.advances.done(next),
        // Asking again would not help: the store has lost it, and what is read from there will say so.
        Err(error) if !may_come(&error) => {
            tracing::error!(volume.id = %volume, snapshot.id = %snapshot, error = %chain(&error),
                "the store cannot move its main line to the head");
            core.advances.done(next);
        }
        Err(error) => {
            tracing::warn!(volume.id = %volume, snapshot.id = %snapshot, error = %chain(&error),
                "the store has not moved its main line: trying again");
            core.advances.postpone(next);
        }
    }
}

fn may_come(error: &ds_transfer::Error) -> bool {
    use ds_transfer::{Error, RequestErrorKind};
    !matches!(error, Error::Request { kind: RequestErrorKind::NotFound | RequestErrorKind::Invalid, .. })
}

async fn add_all_heads(core: &Core) -> Result<(), ds_db::Error> {
    for project in core.db.project_rows().await? {
        core.advances.add(project.workspace, project.head_snapshot);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_postponed_lets_other_volumes_pass_and_keeps_the_order_of_its_own() {
        let [a, b] = [1, 2].map(|n| VolumeId(Uuid::from_u128(n)));
        let [one, two, three] = [1, 2, 3].map(|n| SnapshotId(Uuid::from_u128(n)));
        let advances = Advances::default();
        for (volume, snapshot) in [(a, one), (a, two), (b, three), (a, one)] {
            advances.add(volume, snapshot);
        }
        let (mut order, start) = (Vec::new(), Instant::now());
        advances.postpone(advances.next().await);
        for _ in 0..3 {
            let next = advances.next().await;
            order.push((next.volume, next.snapshot, start.elapsed() >= RETRY));
            advances.done(next);
        }
        assert_eq!(order, [(b, three, false), (a, one, true), (a, two, true)]);
        assert!(advances.firsts().is_empty());
    }
}
