//! The hub's clock, as far as a store knows it.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{Error, Result};

/// Below this an offset is only the network's delay, and not worth a write to disk.
const NOTICEABLE_MS: i64 = 1_000;

/// Our own clock, plus what the hub said it is off by. The offset is kept in a file, so that a store that starts while
/// its hub is away judges tickets by the same clock as before.
pub(crate) struct HubClock {
    offset_ms: AtomicI64,
    started: Instant,
    file: PathBuf,
}

impl HubClock {
    /// Reads the offset that was kept; 0 if there is none.
    pub(crate) fn load(file: PathBuf) -> Self {
        let kept = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Self { offset_ms: AtomicI64::new(kept.unwrap_or(0)), started: Instant::now(), file }
    }

    /// Now, by the hub's clock.
    pub(crate) fn now_ms(&self) -> i64 {
        own_now_ms().saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    /// When this store started, by the hub's clock; up to a second early, since that clock is not known better.
    pub(crate) fn started_ms(&self) -> i64 {
        let running_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.now_ms().saturating_sub(running_ms).saturating_sub(NOTICEABLE_MS)
    }

    /// Notes what the hub's clock shows.
    pub(crate) fn set(&self, hub_now_ms: i64) -> Result<()> {
        let offset_ms = hub_now_ms.saturating_sub(own_now_ms());
        let before = self.offset_ms.swap(offset_ms, Ordering::Relaxed);
        if offset_ms.abs_diff(before) < NOTICEABLE_MS.unsigned_abs() {
            return Ok(());
        }
        tracing::info!(offset_ms, "tickets are judged by the hub's clock, which differs from ours");
        fs::write(&self.file, offset_ms.to_string()).map_err(|source| Error::File {
            action: "write",
            path: self.file.display().to_string(),
            source,
        })
    }
}

/// Unix milliseconds by this machine's clock.
pub(crate) fn own_now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_clock_is_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock");
        let clock = HubClock::load(file.clone());
        assert!(clock.now_ms().abs_diff(own_now_ms()) < 60_000);
        clock.set(own_now_ms() + 3_600_000).unwrap();
        let again = HubClock::load(file);
        let ahead = again.now_ms() - own_now_ms();
        assert!((3_500_000..3_700_000).contains(&ahead), "{ahead}");
        assert!(again.started_ms() <= again.now_ms());
    }
}
