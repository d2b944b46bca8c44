//! Which transport moves more, and keeps the transfer. On a near path QUIC and TCP carry it one after the other, which takes a moment.
//! On a long one, where that would take seconds, both carry while the window of TCP opens, and are compared at its end; any longer they would only
//! take the line from each other. Pure.

use std::time::{Duration, Instant};

use ds_link::{LONG_ROUND_TRIP, Transport};

/// Measured for so long at least, of each.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// Round trips after which a congestion window has opened.
const ROUND_TRIPS: u32 = 10;
/// On a long path: round trips after which TCP, from 10 packets on, has as much under way as fits a line of 1 Gb/s; and of these the last, which
/// count.
const ROUND_TRIPS_TO_OPEN: u32 = 7;
const ROUND_TRIPS_TOGETHER: u32 = 5;

/// How long a trial takes from the moment at which both can carry.
pub(crate) fn duration(round_trip: Duration) -> Duration {
    if round_trip >= LONG_ROUND_TRIP {
        return (ROUND_TRIPS_TO_OPEN + ROUND_TRIPS_TOGETHER) * round_trip;
    }
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
    /// Lanes of both kinds carry, and are measured from `since` on, when they had carried so much.
    Both { since: Instant, before: Option<Carried>, round_trip: Duration },
    /// It is over.
    Decided(Decision),
}

/// Bytes that lanes of each kind carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) quic: u64,
    pub(crate) tcp: u64,
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
        if !matches!(self, Self::NotYet) {
            return;
        }
        *self = if round_trip >= LONG_ROUND_TRIP {
            Self::Both { since: now + ROUND_TRIPS_TO_OPEN * round_trip, before: None, round_trip }
        } else {
            Self::Quic { since: now, bytes, round_trip }
        };
    }

    /// Goes on, if it is time to; says once what was decided. `arrived`: bytes of the stream; `carried`: what each kind of lane was
    /// given of it, which may still be on its way.
    pub(crate) fn step(&mut self, now: Instant, arrived: u64, carried: Carried) -> Option<Decision> {
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
                return Some(self.decide(quic, tcp));
            }
            Self::Both { since, before: None, round_trip } if now >= since => {
                *self = Self::Both { since: now, before: Some(carried), round_trip };
            }
            Self::Both { since, before: Some(before), round_trip }
                if now >= since + ROUND_TRIPS_TOGETHER * round_trip =>
            {
                let quic = rate(now - since, carried.quic - before.quic);
                let tcp = rate(now - since, carried.tcp - before.tcp);
                return Some(self.decide(quic, tcp));
            }
            _ => {}
        }
        None
    }

    /// Whether it has begun and not ended.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self, Self::Quic { .. } | Self::Tcp { .. } | Self::Both { .. })
    }

    fn decide(&mut self, quic: f64, tcp: f64) -> Decision {
        let keeps = if tcp >= quic { Transport::Tcp } else { Transport::Quic };
        let decision = Decision { keeps, quic, tcp };
        *self = Self::Decided(decision);
        decision
    }

    /// Whether lanes over `transport` are to carry now.
    pub(crate) fn wants(&self, transport: Transport) -> bool {
        match self {
            Self::NotYet | Self::Both { .. } => true,
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
        let (mut trial, mut carried) = (Trial::default(), Carried::default());
        trial.begin(start, 5_000, round_trip);
        for look in 1..1_000 {
            carried.quic += 10 * if trial.wants(Transport::Quic) { quic } else { 0 };
            carried.tcp += 10 * if trial.wants(Transport::Tcp) { tcp } else { 0 };
            let arrived = 5_000 + carried.quic + carried.tcp;
            if let Some(decision) = trial.step(start + look * 10 * MS, arrived, carried) {
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
        assert_eq!(run(300, 0, 4 * MS).0.keeps, Transport::Quic, "a TCP that stands still");
    }

    #[test]
    fn on_a_long_path_both_carry_and_then_the_faster_one() {
        let (decision, after) = run(300, 100, 100 * MS);
        assert_eq!((decision.keeps, after), (Transport::Quic, duration(100 * MS)));
        assert!((decision.quic - 300_000.0).abs() < 1.0 && (decision.tcp - 100_000.0).abs() < 1.0);
        assert_eq!(run(10, 100, 100 * MS).0.keeps, Transport::Tcp, "UDP that is throttled");
        let mut trial = Trial::default();
        trial.begin(Instant::now(), 0, 100 * MS);
        assert!(trial.wants(Transport::Quic) && trial.wants(Transport::Tcp));
    }

    #[test]
    fn it_takes_a_moment_or_some_round_trips() {
        assert_eq!(duration(MS), 250 * MS);
        assert_eq!(duration(100 * MS), 1_200 * MS);
    }

    #[test]
    fn on_a_near_path_only_the_wanted_carry() {
        let mut trial = Trial::default();
        assert!(trial.wants(Transport::Quic) && trial.wants(Transport::Tcp));
        let start = Instant::now();
        trial.begin(start, 0, MS);
        assert!(!trial.wants(Transport::Tcp));
        trial.begin(start + 90 * MS, 0, MS);
        assert_eq!(trial.step(start + 100 * MS, 10, Carried::default()), None);
        assert!(trial.wants(Transport::Tcp) && !trial.wants(Transport::Quic), "the first beginning counts");
    }
}
