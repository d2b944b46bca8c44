//! Makes a container ready to start: workspace, clone, repository, image.

use std::path::PathBuf;

use ds_proto::v1::{Direction, Outcome, TaskPhase};
use ds_transfer::ErrorKind;
use tokio_util::sync::CancellationToken;

use super::{Task, tell};
use crate::{
    backoff::Backoff,
    checkout,
    docker::container::ContainerSpec,
    error::{Error, Result, explain},
    hub::Grant,
    journal::{Stage, Stop},
    node::is_full_here,
};

/// How often a store that answers may fail to send the workspace.
const PULL_ATTEMPTS: u32 = 8;

impl Task {
    /// The stage [`Stage::Preparing`]. Fails only with what may pass.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        let cancel = self.signals.cancel.clone();
        let made = tokio::select! {
            made = self.make_container() => made,
            () = cancel.cancelled() => {
                self.journal.update(|entry| entry.stop = Some(Stop::Cancelled)).await?;
                return self.end(self.result(Outcome::Cancelled, String::new())).await;
            }
        };
        match made {
            // From here on the container may run: it is never made again.
            Ok(()) => self.advance_to(Stage::Running).await,
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => self.end(self.result(Outcome::Error, explain(&error))).await,
        }
    }

    async fn make_container(&mut self) -> Result<()> {
        let clone = self.clone_workspace().await?;
        if !self.journal.has_manifest() {
            self.tell(TaskPhase::Syncing, "listing the files of the workspace");
            super::commit::list_files(&clone, self.journal.manifest()).await?;
        }
        self.check_out(&clone).await?;

        self.tell(TaskPhase::Pulling, "");
        let status = self.status.clone();
        let detail = format!("pulling image {}", self.journal.spec().image);
        let progress = move |amount| tell(&status, TaskPhase::Pulling, detail.clone(), amount);
        let image_digest = self.node.docker.image(&self.journal.spec().image, progress).await?;
        self.journal.update(|entry| entry.image_digest = image_digest).await?;

        let entry = self.journal.entry();
        let git_commit = entry.git_commit.as_deref();
        self.node.docker.create(&ContainerSpec { task: &entry.spec, clone: &clone, git_commit }).await
    }

    /// The mounted clone of the base, which is fetched first if it is not here.
    async fn clone_workspace(&self) -> Result<PathBuf> {
        let spec = self.journal.spec();
        let volumes = &self.node.volumes;
        self.tell(TaskPhase::Syncing, "");
        loop {
            if volumes.find(spec.volume, spec.base).await?.is_none() {
                self.tell(TaskPhase::Syncing, "waiting for the workspace");
                let _turn = self.node.turns.take(spec.volume).await;
                self.fetch().await?;
            }
            match volumes.clone_for_task(spec.task, spec.volume, spec.base).await {
                Ok(clone) => return Ok(clone),
                // Another task made room with it, not knowing of this one yet.
                Err(ds_zfs::Error::SnapshotMissing { .. }) => {}
                Err(ds_zfs::Error::NoSpace(_)) if self.node.make_room().await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn fetch(&self) -> Result<()> {
        let spec = self.journal.spec();
        let (mut backoff, mut failures) = (Backoff::default(), 0);
        while self.node.volumes.find(spec.volume, spec.base).await?.is_none() {
            let Err(error) = self.pull().await else { continue };
            if is_full_here(&error) && self.node.make_room().await {
                continue;
            }
            failures += u32::from(!is_away(&error));
            if !error.is_retryable() || failures >= PULL_ATTEMPTS {
                return Err(Error::NotPulled(Box::new(error)));
            }
            self.trouble(&explain(&error));
            backoff.wait().await;
        }
        Ok(())
    }

    async fn pull(&self) -> Result<()> {
        let spec = self.journal.spec();
        let Grant { ticket, store } = self.node.hub.ticket(spec.task, Direction::Pull).await?;
        let link = self.node.store(store.as_ref().unwrap_or(&spec.store)).await?;
        let progress = self.transfer_teller(TaskPhase::Syncing, "receiving the workspace");
        // Dropping the future ends the transfer; it is never told to end in another way.
        let never = CancellationToken::new();
        let volumes = &self.node.volumes;
        ds_transfer::pull(&link, volumes, ticket, spec.volume, spec.base, progress, &never).await?;
        Ok(())
    }

    async fn check_out(&mut self, clone: &std::path::Path) -> Result<()> {
        let Some(repository) = &self.journal.spec().repository else { return Ok(()) };
        let url = checkout::without_secret(&repository.url);
        self.tell(TaskPhase::Syncing, format!("checking out {url}"));
        let commit = checkout::checkout(repository, clone, &self.journal.git_dir()).await?;
        self.tell(TaskPhase::Syncing, format!("checked out commit {commit} of {url}"));
        self.journal.update(|entry| entry.git_commit = Some(commit)).await
    }
}

/// Whether the store is only away, which is waited for as long as it takes.
fn is_away(error: &Error) -> bool {
    match error {
        Error::Store { source, .. } => source.is_retryable(),
        Error::Transfer(error) => matches!(error.kind(), ErrorKind::Link | ErrorKind::Busy),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_has_to_mend_ends_the_task() {
        assert!(!Error::Git("no such branch".into()).is_retryable());
        assert!(!Error::Image("unknown".into()).is_retryable());
    }
}
