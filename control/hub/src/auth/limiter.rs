//! Slows down whoever guesses passwords.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Failures that a user name may have in a [`WINDOW`] before more attempts are refused.
const FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// User names remembered at once. Beyond it, the one whose window ends first is forgotten.
const NAMES: usize = 10_000;

/// Failed logins per user name, whether or not the user exists. Bounded in memory; forgotten at restart.
#[derive(Default)]
pub(crate) struct LoginLimiter {
    failures: Mutex<HashMap<String, (Instant, u32)>>,
}

impl LoginLimiter {
    /// How long `name` has to wait before another attempt, if it has to.
    pub(crate) fn wait(&self, name: &str, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().expect("no holder of this lock panics");
        let (since, count) = failures.get(name)?;
        let left = (*since + WINDOW).checked_duration_since(now).filter(|left| !left.is_zero())?;
        (*count >= FAILURES).then_some(left)
    }

    /// Counts a failure of `name`.
    pub(crate) fn failed(&self, name: &str, now: Instant) {
        let mut failures = self.failures.lock().expect("no holder of this lock panics");
        if failures.len() >= NAMES && !failures.contains_key(name) {
            failures.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if failures.len() >= NAMES && !failures.contains_key(name) {
            let oldest = failures.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone());
            oldest.and_then(|name| failures.remove(&name));
        }
        let entry = failures.entry(name.to_owned()).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }

    /// Forgets the failures of `name`, who has logged in.
    pub(crate) fn succeeded(&self, name: &str) {
        self.failures.lock().expect("no holder of this lock panics").remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_close_the_door_for_the_rest_of_the_minute() {
        let (limiter, start) = (LoginLimiter::default(), Instant::now());
        for _ in 0..FAILURES {
            assert_eq!(limiter.wait("ann", start), None);
            limiter.failed("ann", start);
        }
        assert_eq!(limiter.wait("ann", start), Some(WINDOW));
        assert_eq!(limiter.wait("bob", start), None);
        assert_eq!(limiter.wait("ann", start + WINDOW), None);
        limiter.failed("ann", start + WINDOW);
        assert_eq!(limiter.wait("ann", start + WINDOW), None);
    }

    #[test]
    fn memory_is_bounded() {
        let (limiter, start) = (LoginLimiter::default(), Instant::now());
        for name in 0..NAMES + 100 {
            limiter.failed(&name.to_string(), start);
        }
        assert_eq!(limiter.failures.lock().unwrap().len(), NAMES);
    }
}
