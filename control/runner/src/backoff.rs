//! How long to wait before something is tried again.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Waits 0.5 s at first and twice as long each time, up to 15 s unless said otherwise; each wait is cut by a random part of
/// up to a half, so that many runners do not come back to a hub at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: SHORTEST, longest }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        // A version 4 UUID is the randomness that is at hand; its first byte is all random.
        let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        let wait = self.next * (512 - random) / 512;
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// Waits that long.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| *wait >= SHORTEST / 2 && *wait <= LONGEST), "{waits:?}");
        assert!(waits[19] > LONGEST / 2);
    }
}
