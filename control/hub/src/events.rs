//! What changed, told to whoever listens: browsers, followers of a log, the scheduler.
//!
//! An event says that something changed, never how; listeners read the database again. So a lost event costs a
//! refetch and nothing else, and a hub that is one of several loses only promptness for what happens at
//! another.

use ds_domain::api::Event;
use tokio::sync::{Notify, broadcast};

/// Events kept for slow listeners. One that falls further behind is told to fetch everything again.
const KEPT: usize = 1024;

/// The hub's events.
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
    /// Wakes the scheduler. Any number of calls while it works make one more round.
    schedule: Notify,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(KEPT).0, schedule: Notify::new() }
    }

    /// Tells everybody. Nobody listening is no error.
    pub(crate) fn publish(&self, event: Event) {
        let _ = self.sender.send(event);
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
