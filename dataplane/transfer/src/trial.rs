//! Which transport moves more: QUIC and TCP carry the transfer one after the other, and the faster one keeps it. Pure.

use std::time::{Duration, Instant};

use ds_link::Transport;

/// Measured for so long at least, of each.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// Round trips after which a congestion window has opened.
const ROUND_TRIPS: u32 = 10;

/// How long a trial takes from the moment at which both can carry.
pub(crate) fn duration(round_trip: Duration) -> Duration {
    2 * period(round_trip) + settling(round_trip)
}

/// How long each is measured.
fn period(round_trip: Duration) -> Duration {
    (ROUND_TRIPS * round_trip).clamp(SHORTEST, LONGEST)
}

/// Before the second is measured, what is on its way over the first has to arrive, and its own window to open.
fn settling(round_trip: Duration) -> Duration {
    (ROUND_TRIPS * round_trip).clamp(SHORTEST / 2, LONGEST)
}

/// The trial of one transfer, at its sending end.
#[derive(Debug, Default)]
pub(crate) enum Trial {
    /// There are lanes of one kind only.
    #[default]
    NotYet,
    /// Lanes over QUIC carry, as before.
    Quic { since: Instant, bytes: u64, round_trip: Duration },
    /// Lanes over TCP carry, and are measured from `since` on, when `bytes` had arrived.
    Tcp { since: Instant, bytes: Option<u64>, quic: f64, round_trip: Duration },
    /// It is over.
    Decided(Decision),
}

/// The outcome of a trial, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decision {
    pub(crate) keeps: Transport,
    pub(crate) quic: f64,
    pub(crate) tcp: f64,
}

impl Trial {
    /// There is now a lane over TCP beside those over QUIC. `bytes` of the stream have arrived. Only the first call counts.
    pub(crate) fn begin(&mut self, now: Instant, bytes: u64, round_trip: Duration) {
        if matches!(self, Self::NotYet) {
            *self = Self::Quic { since: now, bytes, round_trip };
        }
    }

    /// Goes on, if it is time to; says once what was decided.
    pub(crate) fn step(&mut self, now: Instant, arrived: u64) -> Option<Decision> {
        match *self {
            Self::Quic { since, bytes, round_trip } if now >= since + period(round_trip) => {
                let quic = rate(now - since, arrived - bytes);
                *self = Self::Tcp { since: now + settling(round_trip), bytes: None, quic, round_trip };
            }
            Self::Tcp { since, bytes: None, quic, round_trip } if now >= since => {
                *self = Self::Tcp { since: now, bytes: Some(arrived), quic, round_trip };
            }
            Self::Tcp { since, bytes: Some(bytes), quic, round_trip }
                if now >= since + period(round_trip) =>
            {
                let tcp = rate(now - since, arrived - bytes);
                let keeps = if tcp >= quic { Transport::Tcp } else { Transport::Quic };
                let decision = Decision { keeps, quic, tcp };
                *self = Self::Decided(decision);
                return Some(decision);
            }
            _ => {}
        }
        None
    }

    /// Whether it has begun and not ended.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self, Self::Quic { .. } | Self::Tcp { .. })
    }

    /// Whether lanes over `transport` are to carry now.
    pub(crate) fn wants(&self, transport: Transport) -> bool {
        match self {
            Self::NotYet => true,
            Self::Quic { .. } => transport == Transport::Quic,
            Self::Tcp { .. } => transport == Transport::Tcp,
            Self::Decided(decision) => transport == decision.keeps,
        }
    }
}

fn rate(time: Duration, bytes: u64) -> f64 {
    bytes as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs a trial at so many bytes a millisecond over each, looking every 10 ms; gives the decision and when it fell.
    fn run(quic: u64, tcp: u64, round_trip: Duration) -> (Decision, Duration) {
        let start = Instant::now();
        let (mut trial, mut arrived) = (Trial::default(), 5_000);
        trial.begin(start, arrived, round_trip);
        for look in 1..1_000 {
            arrived += 10 * if trial.wants(Transport::Quic) { quic } else { tcp };
            if let Some(decision) = trial.step(start + look * 10 * MS, arrived) {
                return (decision, look * 10 * MS);
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn the_faster_one_is_kept() {
        let (decision, after) = run(100, 300, MS);
        assert_eq!((decision.keeps, after), (Transport::Tcp, duration(MS)));
        assert!((decision.quic - 100_000.0).abs() < 1.0 && (decision.tcp - 300_000.0).abs() < 1.0);
        assert_eq!(run(300, 100, MS).0.keeps, Transport::Quic);
        assert_eq!(run(300, 0, 50 * MS).0.keeps, Transport::Quic, "a TCP that stands still");
    }

    #[test]
    fn long_paths_are_given_time() {
        assert_eq!(duration(MS), 250 * MS);
        assert_eq!(run(100, 100, 100 * MS).1, Duration::from_secs(3));
    }

    #[test]
    fn before_and_after_it_only_the_wanted_carry() {
        let mut trial = Trial::default();
        assert!(trial.wants(Transport::Quic) && trial.wants(Transport::Tcp));
        let start = Instant::now();
        trial.begin(start, 0, MS);
        assert!(!trial.wants(Transport::Tcp));
        trial.begin(start + 90 * MS, 0, MS);
        assert_eq!(trial.step(start + 100 * MS, 10), None);
        assert!(trial.wants(Transport::Tcp) && !trial.wants(Transport::Quic), "the first beginning counts");
    }
}
