//! What this process is receiving: each snapshot, and each filesystem, once at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ds_domain::ids::SnapshotId;

/// All that is under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Arc<Mutex<Vec<Claimed>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    filesystem: String,
    snapshot: SnapshotId,
}

impl Claims {
    /// `None` while the snapshot, or another into the same filesystem, is under way.
    pub(super) fn claim(&self, filesystem: &str, snapshot: SnapshotId) -> Option<Claim> {
        let mut all = self.all();
        if all.iter().any(|other| other.filesystem == filesystem || other.snapshot == snapshot) {
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
