//! Moves the store's main lines to where the heads are.
//!
//! The head in the database is what counts; the store follows, in the order in which the heads moved. What it
//! has not followed when the hub stops, or what nobody was left to say, is asked for again: all heads are, at
//! the start and every ten minutes.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use ds_domain::{SnapshotId, VolumeId};
use tokio::sync::Notify;

use crate::{core::Core, error::chain, store_clock::store_answers};

/// Between two attempts while the store does not do it.
const RETRY: Duration = Duration::from_secs(5);
/// Between two times that all heads are asked for.
const ROUND: Duration = Duration::from_mins(10);

/// The moves that the store has yet to make. Bounded by the tasks and uploads that finish while the store is
/// away.
#[derive(Default)]
pub(crate) struct Advances {
    pending: Mutex<VecDeque<(VolumeId, SnapshotId)>>,
    added: Notify,
}

impl Advances {
    pub(crate) fn add(&self, volume: VolumeId, snapshot: SnapshotId) {
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        if !pending.contains(&(volume, snapshot)) {
            pending.push_back((volume, snapshot));
        }
        self.added.notify_one();
    }

    fn first(&self) -> Option<(VolumeId, SnapshotId)> {
        self.pending.lock().expect("no holder of this lock panics").front().copied()
    }

    fn done(&self) {
        self.pending.lock().expect("no holder of this lock panics").pop_front();
    }

    /// Puts the first one last, so that one volume in trouble does not hold up the others.
    fn postpone(&self) {
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        if let Some((volume, snapshot)) = pending.pop_front() {
            // A volume's moves keep their order.
            let (same, others): (VecDeque<_>, VecDeque<_>) =
                pending.drain(..).partition(|(other, _)| *other == volume);
            pending.extend(others);
            pending.push_back((volume, snapshot));
            pending.extend(same);
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
        let Some((volume, snapshot)) = core.advances.first() else {
            tokio::select! {
                () = core.advances.added.notified() => {}
                _ = rounds.tick() => {
                    if let Err(error) = add_all_heads(core).await {
                        tracing::warn!(error = %chain(&error), "cannot read the heads: trying again");
                        rounds.reset_after(RETRY);
                    }
                }
            }
            continue;
        };
        store_answers(core).await;
        match core.store.advance(volume, snapshot).await {
            Ok(()) => core.advances.done(),
            // Asking again would not help: the store has lost it, and what is read from there will say so.
            Err(error) if !may_come(&error) => {
                tracing::error!(volume.id = %volume, snapshot.id = %snapshot, error = %chain(&error),
                    "the store cannot move its main line to the head");
                core.advances.done();
            }
            Err(error) => {
                tracing::warn!(volume.id = %volume, snapshot.id = %snapshot, error = %chain(&error),
                    "the store has not moved its main line: trying again");
                core.advances.postpone();
                tokio::time::sleep(RETRY).await;
            }
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

    #[test]
    fn what_is_postponed_lets_other_volumes_pass_and_keeps_the_order_of_its_own() {
        let [a, b] = [1, 2].map(|n| VolumeId(Uuid::from_u128(n)));
        let [one, two, three] = [1, 2, 3].map(|n| SnapshotId(Uuid::from_u128(n)));
        let advances = Advances::default();
        for (volume, snapshot) in [(a, one), (a, two), (b, three), (a, one)] {
            advances.add(volume, snapshot);
        }
        advances.postpone();
        let mut order = Vec::new();
        while let Some(first) = advances.first() {
            order.push(first);
            advances.done();
        }
        assert_eq!(order, [(b, three), (a, one), (a, two)]);
    }
}
