//! What this process is receiving: each snapshot, and each filesystem, once at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ds_domain::ids::SnapshotId;

/// All that is under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<Vec<Claimed>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    filesystem: String,
    /// `None` where snapshots have no ids: in trees.
    snapshot: Option<SnapshotId>,
}

impl Claims {
    /// `None` while the snapshot, or another into the same filesystem, is under way.
    pub(crate) fn claim(&self, filesystem: &str, snapshot: SnapshotId) -> Option<Claim> {
        self.claim_all(filesystem, Some(snapshot))
    }

    /// `None` while anything is received into the filesystem.
    pub(crate) fn claim_filesystem(&self, filesystem: &str) -> Option<Claim> {
        self.claim_all(filesystem, None)
    }

    /// Whether anything is received into the filesystem now.
    pub(crate) fn is_claimed(&self, filesystem: &str) -> bool {
        self.all().iter().any(|other| other.filesystem == filesystem)
    }

    fn claim_all(&self, filesystem: &str, snapshot: Option<SnapshotId>) -> Option<Claim> {
        let mut all = self.all();
        let same = |other: &Claimed| snapshot.is_some() && other.snapshot == snapshot;
        if all.iter().any(|other| other.filesystem == filesystem || same(other)) {
            return None;
        }
        let claimed = Claimed { filesystem: filesystem.to_owned(), snapshot };
        all.push(claimed.clone());
        Some(Claim { claims: self.clone(), claimed })
    }

    fn all(&self) -> MutexGuard<'_, Vec<Claimed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    claimed: Claimed,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.all().retain(|other| *other != self.claimed);
    }
}
