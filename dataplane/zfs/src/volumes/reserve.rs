//! A little space that tasks cannot use, so that what they wrote can still be kept when they filled the pool.

use std::sync::atomic::Ordering;

use super::{Volumes, create_filesystem};
use crate::{Error, Result, command::zfs};

/// Enough for a snapshot's own records, and for the properties set while cleaning up.
const RESERVE: &str = "reservation=16M";

impl Volumes {
    /// Sets the space aside. A pool that is too full for it now gets it when a task's clone is gone.
    pub(super) async fn set_reserve(&self) -> Result<()> {
        let name = self.inner.layout.reserve();
        create_filesystem(&name, &["-o", "mountpoint=none"]).await?;
        match zfs(&["set", RESERVE, &name]).await {
            Err(Error::NoSpace(failure)) => {
                tracing::warn!(said = failure.said, "the pool is too full to keep a reserve");
                self.inner.reserve_lent.store(true, Ordering::Relaxed);
                Ok(())
            }
            result => {
                self.inner.reserve_lent.store(false, Ordering::Relaxed);
                result.map(drop)
            }
        }
    }

    /// Sets it aside again, if it was lent.
    pub(super) async fn restore_reserve(&self) -> Result<()> {
        if self.inner.reserve_lent.load(Ordering::Relaxed) { self.set_reserve().await } else { Ok(()) }
    }

    /// Runs `zfs`, and once more with the reserve where the pool is full.
    pub(super) async fn zfs_with_reserve(&self, arguments: &[&str]) -> Result<String> {
        match zfs(arguments).await {
            Err(Error::NoSpace(_)) => {
                tracing::warn!("the pool is full: using the reserve");
                self.inner.reserve_lent.store(true, Ordering::Relaxed);
                zfs(&["set", "reservation=none", &self.inner.layout.reserve()]).await?;
                zfs(arguments).await
            }
            result => result,
        }
    }
}
