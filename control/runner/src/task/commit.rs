//! Keeps what a command did: a snapshot of the clone, the list of what changed, and both at the store.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ds_proto::v1::{self, Direction, Outcome, TaskPhase};
use ds_zfs::{Change, ChangeKind, Manifest};
use tokio_util::sync::CancellationToken;

use super::Task;
use crate::{
    backoff::Backoff,
    error::{Error, Result, explain},
    hub::Grant,
    journal::{Stage, Stop},
    node::is_full_here,
};

/// Between tries while a person has to act: make room in a pool, say.
const BLOCKED_WAIT: Duration = Duration::from_mins(1);
/// Changed files that are told to the hub; the rest is counted.
const CHANGES_LIMIT: usize = 100_000;
/// Likewise, over all their paths: the result has to fit one message.
const CHANGES_LIMIT_BYTES: usize = 32 << 20;

impl Task {
    /// The stage [`Stage::Committing`]. Nothing is let go of before the store has it: what fails is tried again until it
    /// works, or until the task is cancelled for it.
    pub(super) async fn commit(&mut self) -> Result<()> {
        self.tell(TaskPhase::Committing, "taking a snapshot");
        let mut backoff = Backoff::default();
        let mut abandoned = std::pin::pin!(self.abandoned());
        loop {
            let error = match self.keep().await {
                Ok(()) => return self.advance_to(Stage::Finished).await,
                Err(error) => error,
            };
            if is_full_here(&error) && self.node.make_room().await {
                continue;
            }
            let wait = if error.is_retryable() { backoff.next() } else { BLOCKED_WAIT };
            self.trouble(&format!(
                "the result is kept on the runner until the store has it: {}. To give it up, cancel the task{}",
                explain(&error),
                if self.was_cancelled() { " again" } else { "" },
            ));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = &mut abandoned => return self.give_up(&error).await,
            }
        }
    }

    /// Completes when a person cancels the task for its result. Who cancelled it while its command ran meant the command,
    /// and has to say so once more.
    fn abandoned(&self) -> impl Future<Output = ()> + Send + use<> {
        let (cancel, mut insisted) = (self.signals.cancel.clone(), self.signals.insisted.clone());
        let again = self.was_cancelled();
        insisted.mark_unchanged();
        async move {
            if !again {
                cancel.cancelled().await;
            } else if insisted.changed().await.is_err() {
                // Whoever could say so is gone; so is this, in a moment.
                std::future::pending::<()>().await;
            }
        }
    }

    fn was_cancelled(&self) -> bool {
        self.journal.entry().stop == Some(Stop::Cancelled)
    }

    async fn keep(&self) -> Result<()> {
        let spec = self.journal.spec();
        let volumes = &self.node.volumes;
        let mut result = self.journal.read_result()?;
        let clone = volumes.task_mountpoint(spec.task, spec.volume).await?.ok_or(Error::CloneGone)?;
        volumes.snapshot_task(spec.task, spec.volume, spec.result).await?;
        (result.changes, result.changes_omitted) = changes(self.journal.manifest(), clone).await?;
        result.receipt = Some(self.push().await?);
        self.journal.write_result(&result).await
    }

    async fn push(&self) -> Result<v1::SignedReceipt> {
        let spec = self.journal.spec();
        let Grant { ticket, store } = self.node.hub.ticket(spec.task, Direction::Push).await?;
        let link = self.node.store(store.as_ref().unwrap_or(&spec.store)).await?;
        let progress = self.transfer_teller(TaskPhase::Committing, "sending to the store");
        // Dropping the future ends the transfer; it is never told to end in another way.
        let never = CancellationToken::new();
        let volumes = &self.node.volumes;
        Ok(ds_transfer::push(&link, volumes, ticket, spec.volume, spec.result, progress, &never).await?)
    }

    async fn give_up(&mut self, error: &Error) -> Result<()> {
        // A result that cannot be read is one more that cannot be kept.
        let mut result =
            self.journal.read_result().unwrap_or_else(|_| self.result(Outcome::Error, String::new()));
        let ended = match result.exit_code {
            Some(code) => format!("the command ended with exit code {code}"),
            None => "nothing is known of the command's end".to_owned(),
        };
        let before = if result.error.is_empty() { String::new() } else { format!(" ({})", result.error) };
        result.outcome = Outcome::Error.into();
        result.error = format!(
            "{ended}{before}, but its result could not be kept and the task was cancelled for it: {}",
            explain(error)
        );
        self.journal.write_result(&result).await?;
        self.advance_to(Stage::Finished).await
    }
}

/// Writes the list of all files in the clone.
pub(super) async fn list_files(clone: &Path, list: PathBuf) -> Result<()> {
    let clone = clone.to_owned();
    blocking(move || Manifest::walk(&clone)?.write(&list)).await
}

/// What changed in the clone since its files were listed, and how many changes are left out.
async fn changes(list: PathBuf, clone: PathBuf) -> Result<(Vec<v1::FileChange>, u64)> {
    let changes =
        blocking(move || Ok(ds_zfs::diff(&Manifest::read(&list)?, &Manifest::walk(&clone)?))).await?;
    let all = changes.len();
    let mut bytes = 0;
    let told = changes.into_iter().take(CHANGES_LIMIT).map(file_change).take_while(|change| {
        bytes += change.path.len();
        bytes <= CHANGES_LIMIT_BYTES
    });
    let told: Vec<_> = told.collect();
    let omitted = all - told.len();
    Ok((told, omitted as u64))
}

fn file_change(change: Change) -> v1::FileChange {
    let (kind, size_bytes) = match change.kind {
        ChangeKind::Added => (v1::Change::Added, change.size),
        ChangeKind::Modified => (v1::Change::Modified, change.size),
        // The hub wants the size after the change.
        ChangeKind::Removed => (v1::Change::Removed, 0),
    };
    v1::FileChange { path: change.path, change: kind.into(), size_bytes }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> ds_zfs::Result<T> + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await.expect("walking a tree does not panic and is not aborted")?)
}
