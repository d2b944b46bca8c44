//! A long line, as arithmetic: when a packet that enters it comes out, or that it never does.
//!
//! Pure: time and chance are arguments. `emulator.rs` moves the packets.

use std::time::Duration;

/// The most that one packet of it holds, headers included.
pub(crate) const MTU: usize = 1500;

/// What a line is like, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Profile {
    /// Bits of packets, with their IP headers.
    pub(crate) bits_per_second: u64,
    /// There and back, while nothing waits.
    pub(crate) round_trip: Duration,
    /// The share of packets that are lost at random, 0 to 1.
    pub(crate) loss: f64,
    /// The longest that a packet waits for those before it. One that would wait longer is dropped.
    pub(crate) queue: Duration,
}

/// One of its directions.
#[derive(Debug)]
pub(crate) struct Direction {
    profile: Profile,
    /// When everything before the next packet has entered the line.
    free_at: Duration,
}

impl Profile {
    /// Faster than any emulator, and neither long nor lossy.
    pub(crate) const OPEN: Self = Self {
        bits_per_second: 100_000_000_000,
        round_trip: Duration::ZERO,
        loss: 0.0,
        queue: Duration::from_millis(1),
    };

    /// With as much room to wait as fits the line: its bandwidth times its round trip.
    pub(crate) fn long(bits_per_second: u64, round_trip: Duration, loss: f64) -> Self {
        Self { bits_per_second, round_trip, loss, queue: round_trip }
    }

    /// How many packets of full size are waiting or under way in one direction at most.
    pub(crate) fn packets(&self) -> usize {
        let time = self.queue + self.round_trip / 2;
        usize::try_from(time.as_nanos() / self.time_of(MTU).as_nanos()).expect("fits memory") + 1
    }

    /// How long a packet of `bytes` takes to enter the line.
    fn time_of(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 8 * 1_000_000_000 / self.bits_per_second)
    }
}

impl Direction {
    pub(crate) fn new(profile: Profile) -> Self {
        Self { profile, free_at: Duration::ZERO }
    }

    /// When a packet that arrives `now` comes out; later ones never come out before it. `None` if it is dropped or lost.
    /// `chance` is drawn anew for each, from 0 to 1.
    pub(crate) fn admit(&mut self, now: Duration, bytes: usize, chance: f64) -> Option<Duration> {
        let start = self.free_at.max(now);
        if start.saturating_sub(now) > self.profile.queue {
            return None;
        }
        self.free_at = start + self.profile.time_of(bytes);
        // What is lost on the way has taken its time at the beginning.
        (chance >= self.profile.loss).then_some(self.free_at + self.profile.round_trip / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    /// One packet of 1500 bytes a millisecond.
    const SLOW: Profile = Profile {
        bits_per_second: 12_000_000,
        round_trip: Duration::from_millis(100),
        loss: 0.1,
        queue: Duration::from_millis(5),
    };

    #[test]
    fn a_packet_takes_half_a_round_trip_and_its_own_length() {
        let mut direction = Direction::new(SLOW);
        assert_eq!(direction.admit(MILLISECOND, MTU, 0.5), Some(52 * MILLISECOND));
        assert_eq!(direction.admit(10 * MILLISECOND, MTU / 2, 0.5), Some(Duration::from_micros(60_500)));
    }

    #[test]
    fn a_burst_leaves_at_the_rate_of_the_line_and_what_does_not_fit_is_dropped() {
        let mut direction = Direction::new(SLOW);
        let burst: Vec<_> = (0..8).map(|_| direction.admit(Duration::ZERO, MTU, 0.5)).collect();
        let expected: Vec<_> = (51..57).map(|due| Some(due * MILLISECOND)).chain([None, None]).collect();
        assert_eq!(burst, expected);
        // What was dropped did not take the place of those that come later.
        assert_eq!(direction.admit(6 * MILLISECOND, MTU, 0.5), Some(57 * MILLISECOND));
    }

    #[test]
    fn a_lost_packet_delays_those_behind_it() {
        let mut direction = Direction::new(SLOW);
        assert_eq!(direction.admit(Duration::ZERO, MTU, 0.09), None);
        assert_eq!(direction.admit(Duration::ZERO, MTU, 0.1), Some(52 * MILLISECOND));
    }

    #[test]
    fn there_is_room_for_the_queue_and_the_line() {
        assert_eq!(SLOW.packets(), 56);
        let gigabit = Profile::long(1_000_000_000, Duration::from_millis(100), 0.0);
        assert_eq!(gigabit.packets(), 12_501);
    }
}
