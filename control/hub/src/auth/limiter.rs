//! Slows down whoever guesses passwords.
//!
//! Counted is where attempts come from: somebody who guesses keeps neither the user whose name it is out, nor
//! anybody else at another address.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::address::source;

/// Attempts that do not succeed which one address may make in a [`WINDOW`] for one user name, and for all.
const OF_NAME: u32 = 10;
const OF_ADDRESS: u32 = 100;
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses, and names at addresses, remembered at once. Beyond it, the one whose window ends first is
/// forgotten.
const REMEMBERED: usize = 10_000;

/// Attempts to log in, whether or not the user exists. Bounded in memory; forgotten at restart.
#[derive(Default)]
pub(crate) struct LoginLimiter {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    names: Windows<(IpAddr, String)>,
    addresses: Windows<IpAddr>,
}

impl LoginLimiter {
    /// Counts an attempt before it is made, so that many at once are as many as one after the other. An error is
    /// how long to wait before another.
    pub(crate) fn attempt(&self, name: &str, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let (name, address) = key(name, from);
        let mut counts = self.counts.lock().expect("no holder of this lock panics");
        counts.addresses.wait(&address, OF_ADDRESS, now)?;
        counts.names.wait(&name, OF_NAME, now)?;
        counts.addresses.count(address, now);
        counts.names.count(name, now);
        Ok(())
    }

    /// The attempt was no guess: it does not count, and neither do the others for this name from there.
    pub(crate) fn succeeded(&self, name: &str, from: IpAddr) {
        let (name, address) = key(name, from);
        let mut counts = self.counts.lock().expect("no holder of this lock panics");
        if let Some((_, count)) = counts.addresses.0.get_mut(&address) {
            *count = count.saturating_sub(1);
        }
        counts.names.0.remove(&name);
    }
}

fn key(name: &str, from: IpAddr) -> ((IpAddr, String), IpAddr) {
    let address = source(from);
    ((address, name.to_owned()), address)
}

/// Since when, and how many.
struct Windows<K>(HashMap<K, (Instant, u32)>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Windows<K> {
    fn wait(&self, key: &K, allowed: u32, now: Instant) -> Result<(), Duration> {
        let Some((since, _)) = self.0.get(key).filter(|(_, count)| *count >= allowed) else {
            return Ok(());
        };
        let left = (*since + WINDOW).saturating_duration_since(now);
        if left.is_zero() { Ok(()) } else { Err(left) }
    }

    fn count(&mut self, key: K, now: Instant) {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&key) {
            self.0.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.0.remove(&key));
        }
        let entry = self.0.entry(key).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn ten_attempts_close_the_door_for_that_address_and_the_rest_of_the_minute() {
        let (limiter, start) = (LoginLimiter::default(), Instant::now());
        for _ in 0..OF_NAME {
            assert_eq!(limiter.attempt("ann", address(1), start), Ok(()));
        }
        assert_eq!(limiter.attempt("ann", address(1), start), Err(WINDOW));
        assert_eq!(limiter.attempt("ann", address(2), start), Ok(()));
        assert_eq!(limiter.attempt("bob", address(1), start), Ok(()));
        assert_eq!(limiter.attempt("ann", address(1), start + WINDOW), Ok(()));
        assert_eq!(limiter.attempt("ann", address(1), start + WINDOW), Ok(()));
    }

    #[test]
    fn an_address_that_tries_many_names_has_to_wait_and_successes_do_not_count() {
        let (limiter, start) = (LoginLimiter::default(), Instant::now());
        for _ in 0..2 * OF_ADDRESS {
            assert_eq!(limiter.attempt("ann", address(1), start), Ok(()));
            limiter.succeeded("ann", address(1));
        }
        for name in 0..OF_ADDRESS {
            assert_eq!(limiter.attempt(&name.to_string(), address(1), start), Ok(()));
        }
        assert!(limiter.attempt("ann", address(1), start).is_err());
        assert_eq!(limiter.attempt("ann", address(2), start), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let (limiter, start) = (LoginLimiter::default(), Instant::now());
        for n in 0..u32::try_from(REMEMBERED).unwrap() + 100 {
            let _ = limiter.attempt("ann", address(n), start);
        }
        let counts = limiter.counts.lock().unwrap();
        assert_eq!((counts.names.0.len(), counts.addresses.0.len()), (REMEMBERED, REMEMBERED));
    }
}
