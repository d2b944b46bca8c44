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
    hub::Hub,
    journal::{Journal, Journals},
    node::Node,
    spec::Spec,
    task::{Signals, Status, Task},
};

/// All tasks, each running on its own. They end with the [`Tasks`]'s shutdown and are found again at the next start.
pub(crate) struct Tasks {
    node: Arc<Node>,
    journals: Journals,
    handles: Mutex<HashMap<TaskId, Handle>>,
    running: TaskTracker,
    shutdown: CancellationToken,
}

/// What the hub can tell one task, and what can be told of it.
struct Handle {
    cancel: CancellationToken,
    forget: CancellationToken,
    log_acked: watch::Sender<u64>,
    /// Whether the head advanced to the task's snapshot; none until the hub has acknowledged the result.
    finish_acked: watch::Sender<Option<bool>>,
    status: watch::Receiver<Status>,
}

impl Tasks {
    pub(crate) fn new(node: Arc<Node>, journals: Journals, shutdown: CancellationToken) -> Arc<Self> {
        let (handles, running) = (Mutex::default(), TaskTracker::new());
        Arc::new(Self { node, journals, handles, running, shutdown })
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.node.hub
    }

    /// Finds what an earlier process left: goes on with the tasks that have a journal, and removes the containers and
    /// clones of those that have none.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let journals = self.journals.load()?;
        let held: HashSet<TaskId> = journals.iter().map(Journal::task).collect();
        for task in self.node.docker.tasks().await?.into_iter().filter(|task| !held.contains(task)) {
            tracing::warn!(task.id = %task, "removing a container of a task that is not here any more");
            leave_for_later(task, self.node.docker.remove(task).await);
        }
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
    /// hub hear of it.
    pub(crate) async fn start(self: &Arc<Self>, start: v1::StartTask) {
        let task_id = start.task_id.clone();
        let taken = match Spec::from_start(start) {
            Ok(spec) if self.handles().contains_key(&spec.task) => return,
            Ok(spec) => self.journals.create(spec).await.map_err(|e| explain(&e)),
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

    /// Ends a task's command. False if the task is not here; likewise below.
    pub(crate) fn stop(&self, task: TaskId) -> bool {
        self.tell(task, |handle| handle.cancel.cancel())
    }

    /// Drops a task with all that belongs to it.
    pub(crate) fn forget(&self, task: TaskId) -> bool {
        self.tell(task, |handle| handle.forget.cancel())
    }

    /// The hub has the log before `offset`.
    pub(crate) fn log_acked(&self, task: TaskId, offset: u64) -> bool {
        self.tell(task, |handle| {
            handle.log_acked.send_if_modified(|acked| {
                let more = offset > *acked;
                *acked = offset.max(*acked);
                more
            });
        })
    }

    /// The hub has recorded the result.
    pub(crate) fn finish_acked(&self, task: TaskId, advanced: bool) -> bool {
        self.tell(task, |handle| {
            handle.finish_acked.send_replace(Some(advanced));
        })
    }

    /// What a `Hello` says of the tasks.
    pub(crate) fn reports(&self) -> Vec<v1::TaskReport> {
        let report = |(task, handle): (&TaskId, &Handle)| v1::TaskReport {
            task_id: task.to_bytes(),
            phase: handle.status.borrow().phase.into(),
            log_offset: *handle.log_acked.borrow(),
        };
        self.handles().iter().map(report).collect()
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
        let status = watch::Sender::new(Status::of(journal.entry().stage));
        let signals = Signals {
            cancel: CancellationToken::new(),
            forget: CancellationToken::new(),
            log_acked: log_acked.subscribe(),
            finish_acked: finish_acked.subscribe(),
        };
        let handle = Handle {
            cancel: signals.cancel.clone(),
            forget: signals.forget.clone(),
            log_acked,
            finish_acked,
            status: status.subscribe(),
        };
        self.handles().insert(id, handle);
        let task = Task::new(Arc::clone(&self.node), journal, signals, status);
        let tasks = Arc::clone(self);
        self.running.spawn(async move {
            tokio::select! {
                () = task.run() => tasks.released(id),
                // The container runs on; the next start finds it.
                () = tasks.shutdown.cancelled() => {}
            }
        });
    }

    fn released(&self, task: TaskId) {
        self.handles().remove(&task);
        let released = v1::TaskReleased { task_id: task.to_bytes() };
        self.hub().offer(Message::Released(released));
    }

    fn tell(&self, task: TaskId, tell: impl FnOnce(&Handle)) -> bool {
        self.handles().get(&task).map(tell).is_some()
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
