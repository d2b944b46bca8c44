//! Keeping what a transfer is sending from being destroyed under it.

use std::sync::PoisonError;

use ds_domain::ids::{SnapshotId, VolumeId};

use super::Volumes;
use crate::{Implementation, Result, SendPlan};

/// What the names of these owners begin with. They are gone with the process that made them.
const OWNERS: &str = "transfer.";

/// The holds of one transfer. Where it is dropped instead of [released](Guard::release), the next call that destroys
/// something lets go of them first; what a process leaves when it dies, [`Volumes::collect_guards`] finds.
#[derive(Debug)]
pub struct Guard {
    volumes: Volumes,
    held: Vec<Forsaken>,
}

/// A hold whose owner is gone.
#[derive(Debug, Clone)]
pub(super) struct Forsaken {
    volume: VolumeId,
    snapshot: SnapshotId,
    owner: String,
}

impl Volumes {
    /// Holds the snapshot that `transfer` (a name of its own: letters and digits) is about to send, and its base.
    ///
    /// On zfs-fuse nothing is held: it cannot list holds, so those of a process that died would stay for ever.
    pub async fn guard(&self, plan: &SendPlan, transfer: &str) -> Result<Guard> {
        let mut guard = Guard { volumes: self.clone(), held: Vec::new() };
        if !self.lists_holds() {
            return Ok(guard);
        }
        let owner = format!("{OWNERS}{transfer}");
        let snapshots = [Some(plan.snapshot), plan.kind.base().map(|base| base.snapshot)];
        for snapshot in snapshots.into_iter().flatten() {
            let held = Forsaken { volume: plan.volume, snapshot, owner: owner.clone() };
            // Before it is held: this may be dropped while `zfs hold` runs.
            guard.held.push(held);
            match self.hold(plan.volume, snapshot, &owner).await {
                // A bookmark is base enough, and cannot be held.
                Err(error) if error.is_not_found() && snapshot != plan.snapshot => {}
                result => result?,
            }
        }
        Ok(guard)
    }

    /// Lets go of what transfers of an earlier process held. To be called before the first [`Volumes::guard`] of this
    /// one.
    pub async fn collect_guards(&self) -> Result<usize> {
        if !self.lists_holds() {
            return Ok(0);
        }
        self.collect_holds(&|owner| owner.starts_with(OWNERS)).await
    }

    /// Lets go of what dropped guards left held.
    pub(super) async fn release_forsaken(&self) -> Result<()> {
        loop {
            let next = self.inner.forsaken.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(Forsaken { volume, snapshot, owner }) = next else { return Ok(()) };
            self.release(volume, snapshot, &owner).await?;
        }
    }

    fn lists_holds(&self) -> bool {
        let features = self.features();
        features.holds && features.implementation == Implementation::OpenZfs
    }
}

impl Guard {
    /// Lets go of everything.
    pub async fn release(mut self) -> Result<()> {
        while let Some(Forsaken { volume, snapshot, owner }) = self.held.last() {
            self.volumes.release(*volume, *snapshot, owner).await?;
            self.held.pop();
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            let forsaken = &self.volumes.inner.forsaken;
            forsaken.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.held);
        }
    }
}
