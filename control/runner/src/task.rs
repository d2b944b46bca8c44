//! One task, from being taken to being let go of.
//!
//! ```text
//! Preparing ──▶ Running ──▶ Committing ──▶ Finished ──▶ let go
//!     └── cannot run ───────────▲              ▲
//!     └── not even a clone ────────────────────┘
//! ```
//! The stage is in the journal, and each can be repeated from its start: after a `kill -9`, and after an error that may
//! pass. Start reading at [`Task::run`]; the stages are in [`prepare`], [`supervise`] and [`commit`].

mod commit;
mod ending;
mod prepare;
mod supervise;

use std::{sync::Arc, time::Duration};

use ds_domain::TaskId;
use ds_proto::v1::{self, TaskPhase, TransferAmount, from_runner::Message};
use ds_transfer::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    clock::now_ms,
    error::{Result, explain},
    hub::Hub,
    journal::{Entry, Journal, Stage},
    metrics,
    node::Node,
};

/// Between two progress messages of one task.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// After this long without an acknowledgement a result is sent again over the same connection.
const FINISH_PATIENCE: Duration = Duration::from_secs(30);
/// The longest time until a result is sent again, over whatever connection.
const FINISH_LONGEST: Duration = Duration::from_mins(5);

/// A task at work.
pub(crate) struct Task {
    node: Arc<Node>,
    journal: Journal,
    signals: Signals,
    status: watch::Sender<Status>,
}

/// What the hub tells a task.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// End the command.
    pub(crate) cancel: CancellationToken,
    /// How often a person asked for the end once more, after it was asked for.
    pub(crate) insisted: watch::Receiver<u64>,
    /// Drop everything.
    pub(crate) forget: CancellationToken,
    /// The log before this offset is stored, and what follows it is not.
    pub(crate) log_acked: watch::Receiver<u64>,
    /// The result is recorded; true if the head advanced to it.
    pub(crate) finish_acked: watch::Receiver<Option<bool>>,
}

/// How far a task is, for the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) phase: TaskPhase,
    detail: String,
    /// How far that is, while bytes move for it.
    amount: Option<TransferAmount>,
    at_ms: i64,
}

impl Status {
    /// What is known of a task that nobody has worked on yet.
    pub(crate) fn of(stage: Stage) -> Self {
        let phase = match stage {
            Stage::Preparing => TaskPhase::Syncing,
            Stage::Running => TaskPhase::Running,
            Stage::Committing => TaskPhase::Committing,
            Stage::Finished => TaskPhase::Finished,
        };
        Self { phase, detail: String::new(), amount: None, at_ms: now_ms() }
    }
}

impl Task {
    pub(crate) fn new(
        node: Arc<Node>,
        journal: Journal,
        signals: Signals,
        status: watch::Sender<Status>,
    ) -> Self {
        Self { node, journal, signals, status }
    }

    /// Works until the hub has the result, or does not want it, and nothing of the task is left here.
    pub(crate) async fn run(mut self) {
        let Signals { forget, mut finish_acked, .. } = self.signals.clone();
        let reporter = report(self.id(), Arc::clone(&self.node.hub), self.status.subscribe());
        let advanced = tokio::select! {
            () = self.work() => unreachable!("work ends only by what follows"),
            () = reporter => unreachable!("it lives as long as the status"),
            () = forget.cancelled() => false,
            acked = finish_acked.wait_for(Option::is_some) => acked.is_ok_and(|advanced| *advanced == Some(true)),
        };
        self.let_go(advanced).await;
    }

    /// Goes from stage to stage. What fails in a way that may pass is said and repeated.
    async fn work(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            let worked = match self.journal.entry().stage {
                Stage::Preparing => self.prepare().await,
                Stage::Running => self.supervise().await,
                Stage::Committing => self.commit().await,
                Stage::Finished => self.finish().await,
            };
            match worked {
                Ok(()) => backoff = Backoff::default(),
                Err(error) => {
                    let wait = backoff.next();
                    self.trouble(&explain(&error));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Sends the result until the hub has acknowledged it, which ends [`Task::work`]. Each time it waits longer: a hub that
    /// ends the session over a result must have time for everything else.
    async fn finish(&mut self) -> Result<()> {
        self.tell(TaskPhase::Finished, "");
        let result = self.journal.read_result()?;
        let mut backoff = Backoff::up_to(FINISH_LONGEST);
        loop {
            let connection = self.node.hub.connected().await;
            // What was not handed over goes over the next connection.
            let _ = connection.send(Message::Finished(result.clone())).await;
            let wait = backoff.next();
            let closed = async {
                connection.closed().await;
                tokio::time::sleep(wait).await;
            };
            let _ = tokio::time::timeout(wait.max(FINISH_PATIENCE), closed).await;
        }
    }

    /// Removes all that belongs to the task, the journal last.
    async fn let_go(&mut self, advanced: bool) {
        let mut backoff = Backoff::default();
        while let Err(error) = self.try_let_go(advanced).await {
            tracing::warn!(task.id = %self.id(), "cannot let go of a task, trying again: {}", explain(&error));
            backoff.wait().await;
        }
        tracing::info!(task.id = %self.id(), advanced, "let go of a task");
    }

    async fn try_let_go(&self, advanced: bool) -> Result<()> {
        let spec = self.journal.spec();
        self.node.docker.remove(spec.task).await?;
        if advanced && let Err(error) = self.node.volumes.advance(spec.volume, spec.result).await {
            if error.is_retryable() {
                return Err(error.into());
            }
            // The store has the snapshot, so this copy can be fetched again when it is wanted.
            let reason = explain(&error);
            tracing::warn!(task.id = %spec.task, "did not advance this runner's copy of the workspace: {reason}");
        }
        self.node.volumes.drop_task(spec.task).await?;
        let volume = spec.volume;
        self.journal.remove()?;
        if advanced {
            self.node.drop_stale_branches(volume).await;
        }
        Ok(())
    }

    /// Writes down how the task ended; what follows is keeping the clone. Without a list of its files the clone was not
    /// used, or there is none.
    async fn end(&mut self, result: v1::TaskFinished) -> Result<()> {
        let stage = if self.journal.has_manifest() { Stage::Committing } else { Stage::Finished };
        self.journal.write_result(&result).await?;
        self.advance_to(stage).await?;
        metrics::ended(result.outcome());
        Ok(())
    }

    async fn advance_to(&mut self, stage: Stage) -> Result<()> {
        self.journal.update(|entry| entry.stage = stage).await?;
        tracing::info!(task.id = %self.id(), ?stage, "a task went on");
        Ok(())
    }

    /// A result with what is known in every case.
    fn result(&self, outcome: v1::Outcome, error: String) -> v1::TaskFinished {
        let Entry { spec, image_digest, git_commit, .. } = self.journal.entry();
        let warnings = git_commit.iter().zip(&spec.repository).map(|(commit, repository)| {
            format!("checked out commit {commit} of {}", crate::checkout::without_secret(&repository.url))
        });
        v1::TaskFinished {
            task_id: spec.task.to_bytes(),
            outcome: outcome.into(),
            error,
            image: spec.image.clone(),
            image_digest: image_digest.clone(),
            ended_ms: now_ms(),
            warnings: warnings.collect(),
            ..v1::TaskFinished::default()
        }
    }

    fn id(&self) -> TaskId {
        self.journal.task()
    }

    /// Says what is being done.
    fn tell(&self, phase: TaskPhase, detail: impl Into<String>) {
        tell(&self.status, phase, detail.into(), None);
    }

    /// What says how far a transfer is. What is done stays the same text, which the hub writes down once.
    fn transfer_teller(&self, phase: TaskPhase, detail: &'static str) -> impl Fn(Progress) + use<> {
        let status = self.status.clone();
        move |progress| tell(&status, phase, detail.to_owned(), Some(amount(progress)))
    }

    /// Says what went wrong and is tried again.
    fn trouble(&self, reason: &str) {
        tracing::warn!(task.id = %self.id(), "trying again: {reason}");
        metrics::retried();
        let phase = self.status.borrow().phase;
        self.tell(phase, format!("trying again: {reason}"));
    }
}

fn tell(status: &watch::Sender<Status>, phase: TaskPhase, detail: String, amount: Option<TransferAmount>) {
    status.send_replace(Status { phase, detail, amount, at_ms: now_ms() });
}

fn amount(Progress { bytes: done_bytes, estimate }: Progress) -> TransferAmount {
    // An estimate may be a few per cent short.
    TransferAmount { done_bytes, total_bytes: estimate.map(|estimate| estimate.max(done_bytes)) }
}

/// Sends the newest status whenever it or the connection is another one. Never ends.
async fn report(task: TaskId, hub: Arc<Hub>, mut status: watch::Receiver<Status>) {
    let mut connections = hub.connections();
    loop {
        let connection = connections.borrow_and_update().clone();
        let Status { phase, detail, amount, at_ms } = status.borrow_and_update().clone();
        // A finished task reports itself with its result.
        if let Some(connection) = connection.filter(|_| phase != TaskPhase::Finished) {
            let (task_id, phase) = (task.to_bytes(), phase.into());
            let progress = v1::TaskProgress { task_id, phase, detail, at_ms, amount };
            // A connection that closed meanwhile is followed by another one.
            let _ = connection.send(Message::Progress(progress)).await;
        }
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let changed = async {
            tokio::select! {
                changed = status.changed() => changed,
                changed = connections.changed() => changed,
            }
        };
        if changed.await.is_err() {
            // The task is being dropped.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_amount_never_exceeds_its_estimate() {
        let progress = Progress { bytes: 5, estimate: Some(4) };
        assert_eq!(amount(progress), TransferAmount { done_bytes: 5, total_bytes: Some(5) });
        assert_eq!(amount(Progress { bytes: 5, estimate: None }).total_bytes, None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_ticks_a_few_a_second_are_sent_and_the_newest_always() {
        let hub = Arc::new(Hub::new("hub:1"));
        let (opened, mut sent) = hub.open();
        opened.announce();
        let status = watch::Sender::new(Status::of(Stage::Preparing));
        let ticks = async {
            for bytes in 1..=1000 {
                let amount = amount(Progress { bytes, estimate: None });
                tell(&status, TaskPhase::Syncing, "receiving".into(), Some(amount));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        };
        tokio::select! {
            () = ticks => {}
            () = report(TaskId(Uuid::nil()), Arc::clone(&hub), status.subscribe()) => unreachable!("it has no end"),
        }
        let mut amounts = Vec::new();
        while let Ok(v1::FromRunner { message: Some(Message::Progress(progress)) }) = sent.try_recv() {
            amounts.extend(progress.amount.map(|amount| amount.done_bytes));
        }
        assert!(amounts.len() <= 7, "{amounts:?}");
        assert_eq!(amounts.last(), Some(&1000));
    }
}
