//! What changed, told to whoever listens: browsers, followers of a log, the scheduler.
//!
//! An event says that something changed, never how; listeners read the database again. So a lost event costs a
//! refetch and nothing else, and a hub that is one of several loses only promptness for what happens at
//! another.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use ds_domain::{ProjectId, TaskId, api::Event};
use tokio::sync::{Notify, broadcast};

/// Events kept for slow listeners. One that falls further behind is told to fetch everything again.
const KEPT: usize = 1024;
/// Between two events of one task's log, however fast it grows.
const LOG_ROUND: Duration = Duration::from_millis(200);

/// The hub's events.
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
    /// Wakes the scheduler. Any number of calls while it works make one more round.
    schedule: Notify,
    /// Logs that grew and of which nobody was told yet: one entry a task that runs.
    grown: Mutex<HashMap<TaskId, (ProjectId, u64)>>,
    grew: Notify,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            sender: broadcast::channel(KEPT).0,
            schedule: Notify::new(),
            grown: Mutex::default(),
            grew: Notify::new(),
        }
    }

    /// Tells everybody. Nobody listening is no error.
    pub(crate) fn publish(&self, event: Event) {
        let _ = self.sender.send(event);
    }

    /// Tells everybody, soon, that a task's log has so many bytes now.
    pub(crate) fn publish_log(&self, task: TaskId, project: ProjectId, bytes: u64) {
        self.grown.lock().expect("no holder of this lock panics").insert(task, (project, bytes));
        self.grew.notify_one();
    }

    /// Tells of logs that grew, of each at most once in [`LOG_ROUND`]. Runs until it is dropped.
    pub(crate) async fn tell_logs(&self) {
        loop {
            self.grew.notified().await;
            let grown = std::mem::take(&mut *self.grown.lock().expect("no holder of this lock panics"));
            for (id, (project, bytes)) in grown {
                self.publish(Event::Log { id, project, bytes });
            }
            tokio::time::sleep(LOG_ROUND).await;
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// There may be something to schedule: a new task, a free slot, another runner.
    pub(crate) fn wake_scheduler(&self) {
        self.schedule.notify_one();
    }

    pub(crate) async fn scheduler_woken(&self) {
        self.schedule.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_grows_fast_is_told_of_seldom_and_up_to_its_end() {
        let events = Events::new();
        let mut listener = events.subscribe();
        let (task, project) = (TaskId(Uuid::nil()), ProjectId(Uuid::nil()));
        let grow = async {
            for bytes in 1..=1000 {
                events.publish_log(task, project, bytes);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(LOG_ROUND).await;
        };
        tokio::select! {
            () = grow => {}
            () = events.tell_logs() => unreachable!("it has no end"),
        }
        let told: Vec<u64> = std::iter::from_fn(|| match listener.try_recv() {
            Ok(Event::Log { bytes, .. }) => Some(bytes),
            _ => None,
        })
        .collect();
        assert!(told.len() <= 7, "{told:?}");
        assert_eq!(told.last(), Some(&1000));
    }
}
