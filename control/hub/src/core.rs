//! What all parts of a hub share: the database, the store, the keys, and the ways to tell each other of changes.

use std::collections::HashMap;

use ds_db::{Db, RunnerRow};
use ds_domain::{
    RunnerId,
    api::{HubInfo, Runner, Task},
    task::State,
};
use ds_link::{Ca, Trust};
use ds_transfer::{StoreClient, ticket::TicketSigner};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    advance::Advances,
    auth::{limiter::LoginLimiter, password::Passwords},
    clock::now_ms,
    config::{StoreTarget, Unknown},
    events::Events,
    nodes::Sessions,
    progress::Ticks,
};

/// A runner that was silent for so long is offline.
pub(crate) const SILENCE_MS: i64 = 30_000;

/// The shared parts. All that has to survive is in `db` and at the store; the rest can be lost at any moment.
pub(crate) struct Core {
    pub(crate) db: Db,
    /// Since when this process hears runners.
    pub(crate) started_ms: i64,
    pub(crate) store: StoreClient,
    pub(crate) store_target: StoreTarget,
    /// Whether the store answered when it was last told the time.
    pub(crate) store_answers: watch::Sender<bool>,
    /// A runner registered or was removed: the store should know soon.
    pub(crate) nodes_changed: Notify,
    pub(crate) ca: Ca,
    pub(crate) trust: Trust,
    pub(crate) tickets: TicketSigner,
    pub(crate) events: Events,
    pub(crate) sessions: Sessions,
    pub(crate) ticks: Ticks,
    pub(crate) advances: Advances,
    pub(crate) unknown: Unknown,
    pub(crate) passwords: Passwords,
    pub(crate) logins: LoginLimiter,
    pub(crate) info: HubInfo,
    pub(crate) metrics: PrometheusHandle,
    /// Cancelled when the hub stops; ends streams that would stay open for ever.
    pub(crate) shutdown: CancellationToken,
    /// Owns the tasks of runners' sessions.
    pub(crate) tasks: TaskTracker,
}

impl Core {
    /// Whether a runner is there: connected to this process, or heard by any hub of late.
    pub(crate) fn is_online(&self, runner: RunnerId, seen_ms: Option<i64>) -> bool {
        self.sessions.is_connected(runner) || seen_ms.is_some_and(|seen| now_ms() - seen < SILENCE_MS)
    }

    /// Whether a runner had its time to come back and did not. The time in which no hub was there to hear it does
    /// not count.
    pub(crate) fn fell_silent(&self, runner: RunnerId, seen_ms: Option<i64>) -> bool {
        let heard = seen_ms.map_or(self.started_ms, |seen| seen.max(self.started_ms));
        !self.sessions.is_connected(runner) && now_ms() - heard >= SILENCE_MS
    }

    /// A runner as the API shows it.
    pub(crate) fn seen_runner(&self, row: RunnerRow) -> Runner {
        let online = self.is_online(row.runner.id, row.runner.seen_ms);
        Runner { online, ..row.runner }
    }

    /// Says for tasks that a runner has whether it is there, and how far the bytes are that move for them.
    pub(crate) async fn fill_what_is_now(&self, tasks: &mut [Task]) -> Result<(), ds_db::Error> {
        let has_runner = |task: &Task| task.state != State::Ended && task.runner.is_some();
        if !tasks.iter().any(has_runner) {
            return Ok(());
        }
        let runners = self.db.runners().await?.into_iter().map(|row| self.seen_runner(row));
        let online: HashMap<String, bool> = runners.map(|runner| (runner.name, runner.online)).collect();
        for task in tasks.iter_mut().filter(|task| has_runner(task)) {
            task.runner_online = task.runner.as_ref().and_then(|name| online.get(name)).copied();
            task.progress = self.ticks.of(task.id).filter(|_| task.state == State::Running);
        }
        Ok(())
    }
}
