//! The runners that are connected to this process, and the way to each.
//!
//! Nothing here is authoritative: what a runner should do is in the database, and is told again when it
//! reconnects.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
};

use ds_domain::{RunnerId, SnapshotId, TaskId, api::Machine};
use ds_proto::v1::{ToRunner, to_runner};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::convert;

/// Messages under way to one runner. A runner that lets more pile up is disconnected, and told again what it
/// should do when it comes back.
pub(super) const QUEUE: usize = 256;

/// Forgotten tasks remembered of one runner; far more than one that behaves has.
const LETTING_GO: usize = 10_000;

/// What is sent to a runner, or why its stream ends.
pub(super) type Outgoing = Result<ToRunner, Status>;

/// What a runner said of itself when it connected.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) slots: u32,
    pub(crate) machine: Machine,
    /// Snapshots that it can start from without a transfer.
    pub(crate) holds: HashSet<SnapshotId>,
}

struct Connected {
    generation: u64,
    /// Absent until the runner was told what it missed: before, it gets no task.
    profile: Option<Profile>,
    /// Tasks that it was told to forget, and has not released.
    letting_go: HashSet<TaskId>,
    outgoing: mpsc::Sender<Outgoing>,
    end: CancellationToken,
}

/// The connected runners.
#[derive(Default)]
pub(crate) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    generations: u64,
    connected: HashMap<RunnerId, Connected>,
}

/// One runner's session, as its own task sees it.
pub(super) struct Opened {
    pub(super) generation: u64,
    /// Cancelled when a newer session replaces this one, or when the runner does not read.
    pub(super) end: CancellationToken,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
}

impl Sessions {
    /// Registers a session; an older one of the same runner ends.
    pub(super) fn open(&self, runner: RunnerId) -> (Opened, mpsc::Receiver<Outgoing>) {
        let (outgoing, receiver) = mpsc::channel(QUEUE);
        // Before anybody else can send: it is always the first.
        let _ = outgoing.try_send(Ok(convert::to_runner(super::session::welcome())));
        let end = CancellationToken::new();
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        inner.generations += 1;
        let generation = inner.generations;
        let session = Connected {
            generation,
            profile: None,
            letting_go: HashSet::new(),
            outgoing: outgoing.clone(),
            end: end.clone(),
        };
        if let Some(older) = inner.connected.insert(runner, session) {
            let _ = older
                .outgoing
                .try_send(Err(Status::aborted("a newer session of this runner replaced this one")));
            older.end.cancel();
        }
        metrics::gauge!(crate::metrics::RUNNERS_CONNECTED).set(inner.connected.len() as f64);
        (Opened { generation, end, outgoing }, receiver)
    }

    /// Lets the scheduler know of the runner, unless a newer session replaced this one.
    pub(super) fn ready(&self, runner: RunnerId, generation: u64, profile: Profile) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        let session = inner.connected.get_mut(&runner).filter(|session| session.generation == generation);
        if let Some(session) = session {
            session.profile = Some(profile);
        }
    }

    /// The runner is told to forget a task.
    pub(super) fn lets_go(&self, runner: RunnerId, task: TaskId) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        let session = inner.connected.get_mut(&runner);
        if let Some(session) = session.filter(|session| session.letting_go.len() < LETTING_GO) {
            session.letting_go.insert(task);
        }
    }

    /// The runner has dropped all that it had of a task.
    pub(super) fn released(&self, runner: RunnerId, task: TaskId) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        if let Some(session) = inner.connected.get_mut(&runner) {
            session.letting_go.remove(&task);
        }
    }

    /// Forgets a session. Returns whether it was the runner's newest, so that the runner is offline now.
    pub(super) fn close(&self, runner: RunnerId, generation: u64) -> bool {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        let newest = inner.connected.get(&runner).is_some_and(|session| session.generation == generation);
        if newest {
            inner.connected.remove(&runner);
        }
        metrics::gauge!(crate::metrics::RUNNERS_CONNECTED).set(inner.connected.len() as f64);
        newest
    }

    /// Queues a message. False if the runner is not connected here; the message is not kept, since
    /// reconciliation says it again.
    pub(crate) fn send(&self, runner: RunnerId, message: to_runner::Message) -> bool {
        let inner = self.inner.lock().expect("no holder of this lock panics");
        let Some(session) = inner.connected.get(&runner) else { return false };
        let sent = session.outgoing.try_send(Ok(convert::to_runner(message))).is_ok();
        if !sent {
            tracing::warn!(runner.id = %runner, "disconnecting a runner that does not read");
            session.end.cancel();
        }
        sent
    }

    /// Ends a runner's session, because it was removed.
    pub(crate) fn disconnect(&self, runner: RunnerId) {
        let inner = self.inner.lock().expect("no holder of this lock panics");
        if let Some(session) = inner.connected.get(&runner) {
            let _ = session
                .outgoing
                .try_send(Err(Status::permission_denied("this runner was removed from the hub")));
            session.end.cancel();
        }
    }

    pub(crate) fn is_connected(&self, runner: RunnerId) -> bool {
        self.inner.lock().expect("no holder of this lock panics").connected.contains_key(&runner)
    }

    /// The runners that can be given tasks, and which tasks each of them still lets go of.
    pub(crate) fn ready_runners(&self) -> Vec<(RunnerId, Profile, HashSet<TaskId>)> {
        let inner = self.inner.lock().expect("no holder of this lock panics");
        let ready = |(id, session): (&RunnerId, &Connected)| {
            Some((*id, session.profile.clone()?, session.letting_go.clone()))
        };
        inner.connected.iter().filter_map(ready).collect()
    }

    /// The runner has this snapshot from now on.
    pub(crate) fn holds(&self, runner: RunnerId, snapshot: SnapshotId) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        if let Some(profile) = inner.connected.get_mut(&runner).and_then(|session| session.profile.as_mut()) {
            profile.holds.insert(snapshot);
        }
    }
}

#[cfg(test)]
mod tests {
    use ds_proto::v1::Forget;
    use uuid::Uuid;

    use super::*;

    fn profile() -> Profile {
        Profile {
            name: "r".into(),
            labels: BTreeMap::new(),
            slots: 1,
            machine: Machine::default(),
            holds: HashSet::new(),
        }
    }

    fn message() -> to_runner::Message {
        to_runner::Message::Forget(Forget { task_id: vec![] })
    }

    #[test]
    fn the_newest_session_is_the_one_that_counts() {
        let (sessions, runner) = (Sessions::default(), RunnerId(Uuid::new_v4()));
        let (first, _first_out) = sessions.open(runner);
        let (second, mut second_out) = sessions.open(runner);
        assert!(first.end.is_cancelled() && !second.end.is_cancelled());
        sessions.ready(runner, first.generation, profile());
        assert!(sessions.ready_runners().is_empty(), "the newest was not told yet what it missed");
        sessions.ready(runner, second.generation, profile());
        assert_eq!(sessions.ready_runners().len(), 1);
        assert!(!sessions.close(runner, first.generation), "the runner is still there");
        assert!(sessions.send(runner, message()));
        assert!(second_out.try_recv().is_ok());
        assert!(sessions.close(runner, second.generation));
        assert!(!sessions.send(runner, message()));
    }

    #[test]
    fn a_runner_that_does_not_read_is_disconnected() {
        let (sessions, runner) = (Sessions::default(), RunnerId(Uuid::new_v4()));
        let (session, _out) = sessions.open(runner);
        for _ in 1..QUEUE {
            assert!(sessions.send(runner, message()));
        }
        assert!(!sessions.send(runner, message()));
        assert!(session.end.is_cancelled());
    }
}
