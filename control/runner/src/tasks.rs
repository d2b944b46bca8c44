//! The tasks that this runner holds: what the hub says about one reaches it here.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use ds_domain::TaskId;
use ds_proto::v1::{self, from_runner::Message};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::{Result, explain},
    hub::{Hub, SessionNumber},
    journal::Journal,
    metrics,
    node::Node,
    spec::Spec,
    task::{Signals, Status, Task},
};

/// All tasks, each running on its own. They end with the [`Tasks`]'s shutdown and are found again at the next start.
pub(crate) struct Tasks {
    node: Arc<Node>,
    handles: Mutex<HashMap<TaskId, Handle>>,
    running: TaskTracker,
    shutdown: CancellationToken,
}

/// What the hub can tell one task, and what can be told of it.
struct Handle {
    cancel: CancellationToken,
    insisted: watch::Sender<u64>,
    /// The session in which it was last told to stop.
    stopped_in: Option<SessionNumber>,
    forget: CancellationToken,
    log_acked: watch::Sender<u64>,
    /// Whether the head advanced to the task's snapshot; none until the hub has acknowledged the result.
    finish_acked: watch::Sender<Option<bool>>,
    status: watch::Receiver<Status>,
    /// The hub wants the task again while this execution of it is still being let go of.
    again: Option<v1::StartTask>,
}

impl Handle {
    /// Whether the hub has told the task to let go: whatever it says now is about the next execution.
    fn is_leaving(&self) -> bool {
        self.forget.is_cancelled() || self.finish_acked.borrow().is_some()
    }

    /// Each session begins with a repetition of what the hub wants stopped; only another one in the same session is a
    /// person who asks again.
    fn stop(&mut self, session: SessionNumber) {
        if self.stopped_in.replace(session) == Some(session) {
            self.insisted.send_modify(|times| *times += 1);
        }
        self.cancel.cancel();
        self.again = None;
    }
}

impl Tasks {
    pub(crate) fn new(node: Arc<Node>, shutdown: CancellationToken) -> Arc<Self> {
        let (handles, running) = (Mutex::default(), TaskTracker::new());
        Arc::new(Self { node, handles, running, shutdown })
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.node.hub
    }

    /// Finds what an earlier process left: goes on with the tasks that have a journal, and removes the containers and
    /// clones of those that have none, the holds of its transfers, and what it had half received of what nobody waits
    /// for.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let journals = self.node.journals.load()?;
        let held: HashSet<TaskId> = journals.iter().map(Journal::task).collect();
        for task in self.node.docker.tasks().await?.into_iter().filter(|task| !held.contains(task)) {
            tracing::warn!(task.id = %task, "removing a container of a task that is not here any more");
            leave_for_later(task, self.node.docker.remove(task).await);
        }
        self.node.volumes.collect_guards().await?;
        let wanted: Vec<_> =
            journals.iter().map(Journal::spec).map(|spec| (spec.volume, spec.base)).collect();
        self.node.volumes.collect_partials(&wanted).await?;
        for task in self.node.volumes.tasks().await?.into_iter().filter(|task| !held.contains(task)) {
            tracing::warn!(task.id = %task, "dropping a clone of a task that is not here any more");
            leave_for_later(task, self.node.volumes.drop_task(task).await.map_err(Into::into));
        }
        for journal in journals {
            tracing::info!(task.id = %journal.task(), stage = ?journal.entry().stage, "going on with a task");
            self.spawn(journal);
        }
        Ok(())
    }

    /// Takes a task over, unless it is here already. Its journal is durable when this returns, and only then does the
    /// hub hear of it. One that is being let go of is taken over again after that.
    pub(crate) async fn start(self: &Arc<Self>, start: v1::StartTask) {
        if self.is_here(&start) {
            return;
        }
        let task_id = start.task_id.clone();
        let taken = match Spec::from_start(start) {
            Ok(spec) => self.node.journals.create(spec).await.map_err(|e| explain(&e)),
            Err(reason) => Err(reason),
        };
        match taken {
            Ok(journal) => self.spawn(journal),
            Err(error) => {
                tracing::error!("cannot take a task: {error}");
                let outcome = v1::Outcome::Error.into();
                let finished = v1::TaskFinished { task_id, outcome, error, ..v1::TaskFinished::default() };
                // The hub asks again for a task that it hears nothing of.
                self.hub().offer(Message::Finished(finished));
            }
        }
    }

    /// Notes a start of a task that is here.
    fn is_here(&self, start: &v1::StartTask) -> bool {
        let Ok(task) = TaskId::from_bytes(&start.task_id) else { return false };
        self.tell(task, |handle| {
            if handle.is_leaving() {
                handle.again = Some(start.clone());
            }
        })
    }

    /// Ends a task's command. False if the task is not here; likewise below.
    pub(crate) fn stop(&self, task: TaskId, session: SessionNumber) -> bool {
        self.tell(task, |handle| handle.stop(session))
    }

    /// Drops a task with all that belongs to it.
    pub(crate) fn forget(&self, task: TaskId) -> bool {
        self.tell(task, |handle| {
            handle.forget.cancel();
            handle.again = None;
        })
    }

    /// The hub has the log before `offset`, and nothing after it: one that lost some says less than before.
    pub(crate) fn log_acked(&self, task: TaskId, offset: u64) -> bool {
        self.tell(task, |handle| {
            handle.log_acked.send_if_modified(|acked| std::mem::replace(acked, offset) != offset);
        })
    }

    /// The hub has recorded the result.
    pub(crate) fn finish_acked(&self, task: TaskId, advanced: bool) -> bool {
        self.tell(task, |handle| {
            handle.finish_acked.send_replace(Some(advanced));
        })
    }

    /// What a `Hello` says of the tasks. One that is being let go of is the hub's no more.
    pub(crate) fn reports(&self) -> Vec<v1::TaskReport> {
        let report = |(task, handle): (&TaskId, &Handle)| v1::TaskReport {
            task_id: task.to_bytes(),
            phase: handle.status.borrow().phase.into(),
            log_offset: *handle.log_acked.borrow(),
        };
        self.handles().iter().filter(|(_, handle)| !handle.is_leaving()).map(report).collect()
    }

    /// The ids of the newest snapshots on this runner's pool, for the scheduler.
    pub(crate) async fn newest_snapshots(&self) -> Result<Vec<Vec<u8>>> {
        let snapshots = self.node.volumes.all_snapshots().await?;
        Ok(snapshots.into_iter().filter(|(_, s)| s.main && s.tip).map(|(_, s)| s.id.to_bytes()).collect())
    }

    /// Waits until all tasks have stopped working, after the shutdown.
    pub(crate) async fn stopped(&self) {
        self.running.close();
        self.running.wait().await;
    }

    fn spawn(self: &Arc<Self>, journal: Journal) {
        let id = journal.task();
        let (log_acked, finish_acked) = (watch::Sender::new(0), watch::Sender::new(None));
        let insisted = watch::Sender::new(0);
        let status = watch::Sender::new(Status::of(journal.entry().stage));
        let signals = Signals {
            cancel: CancellationToken::new(),
            insisted: insisted.subscribe(),
            forget: CancellationToken::new(),
            log_acked: log_acked.subscribe(),
            finish_acked: finish_acked.subscribe(),
        };
        let handle = Handle {
            cancel: signals.cancel.clone(),
            insisted,
            stopped_in: None,
            forget: signals.forget.clone(),
            log_acked,
            finish_acked,
            status: status.subscribe(),
            again: None,
        };
        let mut handles = self.handles();
        handles.insert(id, handle);
        metrics::tasks(handles.len());
        drop(handles);
        let task = Task::new(Arc::clone(&self.node), journal, signals, status);
        let tasks = Arc::clone(self);
        self.running.spawn(async move {
            tokio::select! {
                () = task.run() => tasks.released(id).await,
                // The container runs on; the next start finds it.
                () = tasks.shutdown.cancelled() => {}
            }
        });
    }

    /// Says so to the hub, or starts the task again if the hub asked for that meanwhile.
    async fn released(self: &Arc<Self>, task: TaskId) {
        let again = self.take_out(task).and_then(|handle| handle.again);
        match again {
            Some(start) => self.start(start).await,
            // A hub that is away finds the task missing in the next `Hello`.
            None => self.hub().offer(Message::Released(v1::TaskReleased { task_id: task.to_bytes() })),
        }
    }

    fn take_out(&self, task: TaskId) -> Option<Handle> {
        let mut handles = self.handles();
        let handle = handles.remove(&task);
        metrics::tasks(handles.len());
        handle
    }

    fn tell(&self, task: TaskId, tell: impl FnOnce(&mut Handle)) -> bool {
        self.handles().get_mut(&task).map(tell).is_some()
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<TaskId, Handle>> {
        self.handles.lock().expect("nobody panics while holding it")
    }
}

/// What cannot be removed now is found again at the next start.
fn leave_for_later(task: TaskId, removed: Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(task.id = %task, "it stays until the runner's next start: {}", explain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_who_asks_again_insists() {
        let hub = Hub::new("hub:1");
        let (first, second) = (hub.open().0.number, hub.open().0.number);
        let mut handle = Handle {
            cancel: CancellationToken::new(),
            insisted: watch::Sender::new(0),
            stopped_in: None,
            forget: CancellationToken::new(),
            log_acked: watch::Sender::new(0),
            finish_acked: watch::Sender::new(None),
            status: watch::channel(Status::of(crate::journal::Stage::Running)).1,
            again: None,
        };
        let mut insisted = |session| {
            handle.stop(session);
            assert!(handle.cancel.is_cancelled());
            *handle.insisted.borrow()
        };
        assert_eq!(insisted(first), 0);
        // What the hub repeats when it is connected again says nothing new.
        assert_eq!(insisted(second), 0);
        assert_eq!(insisted(second), 1);
    }
}
