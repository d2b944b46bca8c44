//! A path as its acknowledgements show it: how fast it delivers and how long it takes, and from both how much to send. Pure.
//!
//! In the manner of BBR (draft-ietf-ccwg-bbr), whose names it has: what a path delivers at most and its shortest round trip make
//! the *bandwidth-delay product*, which is enough to keep it busy. Packets that are lost at random change neither, and so do
//! not slow it. A queue that grows, or more loss than [`MOST_LOSS`], does.
//!
//! ```text
//! Startup → Full → Drain → Cruise → Up → Look → Down → Cruise → …       at times: ProbeRtt → Cruise
//! ```
//! - `Startup` doubles what is under way each round trip, until a queue shows, or nothing more is delivered.
//! - `Full` waits for the rate at which that queue is delivered. `Drain` empties it.
//! - `Cruise` sends what is delivered. `Up` sends more for a round trip, `Look` waits for what came of it: if more
//!   was delivered, the next `Up` follows at once, with a larger step. `Down` takes back what was too much.
//! - `ProbeRtt` halves what is under way when the shortest round trip has not been seen for long.
//!
//! Quinn asks for a window only, and paces at 1.25 windows a round trip, which alone would never leave a path less than full.
//! So the window is what is under way and what may follow until the next acknowledgement, at the rate that the phase has.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What may be under way in `Startup`, in bandwidth-delay products: two let it double, the rest is for samples that lag behind.
const STARTUP_WINDOW_GAIN: f64 = 2.5;
/// What may be under way while the rate is what limits, in bandwidth-delay products: for acknowledgements that come late.
const WINDOW_GAIN: f64 = 2.0;
const DRAIN_GAIN: f64 = 0.5;
const DOWN_GAIN: f64 = 0.75;
const PROBE_RTT_GAIN: f64 = 0.5;
/// How much more `Up` sends at first, and at most when each step was worth it.
const FIRST_STEP: f64 = 0.25;
const LARGEST_STEP: f64 = 1.0;
/// A step was worth it if this share of it arrived.
const WORTH_OF_STEP: f64 = 0.5;
/// Round trips in `Cruise`: a few, so that it is soon found what more there is. Varied, so that two connections do not probe at
/// the same time.
const FEWEST_CRUISES: u64 = 4;
const VARIED_CRUISES: u64 = 4;
/// The growth of a round trip in `Startup` below which the path is full, and after how many such.
const GROWTH: f64 = 1.25;
const ROUNDS_WITHOUT_GROWTH: u32 = 3;
/// The share of packets that may be lost at random. More is taken for a queue that overflows.
const MOST_LOSS: f64 = 0.06;
/// Too few lost packets say nothing about their share.
const FEWEST_LOST: u64 = 8;
/// What the rate keeps at least when a round trip shows congestion.
const BETA: f64 = 0.7;
/// How long the shortest round trip is believed, and how much longer another one may be to confirm it.
const MIN_RTT_LIFETIME: Duration = Duration::from_secs(10);
const ABOUT_AS_SHORT: f64 = 1.0 / 16.0;
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Acknowledgements of which the quickest shows whether there is a queue.
const RTT_SAMPLES: u32 = 8;
/// Shorter delays say nothing about a queue.
const LEAST_QUEUE: Duration = Duration::from_millis(4);
/// How finely it is noted what was sent when, in parts of a round trip.
const NOTES_PER_ROUND_TRIP: u32 = 256;
/// Windows that quinn's pacer sends in a round trip.
const PACER_GAIN: f64 = 1.25;
/// Of a round trip: sending time that can be made up for when acknowledgements come late.
const CATCH_UP: f64 = 0.25;
const FEWEST_PACKETS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Startup,
    Full,
    Drain,
    Cruise,
    Up,
    Look,
    Down,
    ProbeRtt,
}

/// What was known when some packets were sent (draft-ietf-ccwg-bbr, section 4.1).
#[derive(Debug, Clone, Copy)]
struct Note {
    sent_at: Instant,
    first_sent_at: Instant,
    delivered: u64,
    delivered_at: Instant,
    app_limited: bool,
}

/// The path of one connection.
#[derive(Debug, Clone)]
pub(super) struct Model {
    packet: u64,
    /// Packets that the far end may leave unacknowledged for a while.
    ack_threshold: u64,
    phase: Phase,
    /// Bytes that quinn may have under way.
    window: u64,
    in_flight: u64,

    /// Bytes, up to the last acknowledgement.
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    notes: VecDeque<Note>,
    /// Bytes that the acknowledgements which are being told let the window of `Startup` grow by.
    acked: u64,
    /// The newest packet of the acknowledgements that are being told.
    newest: Option<Instant>,
    /// What is sent before so much is delivered says nothing about the path: there was not enough to send.
    app_limited_until: Option<u64>,

    /// Bytes a second, at most: in this cycle of probing and in the last.
    max_rate: [f64; 2],
    /// This cycle has a rate that something else than the sender limited.
    cycle_counts: bool,
    /// What remains of it after congestion, until the next probe.
    bound: Option<f64>,
    min_rtt: Duration,
    min_rtt_at: Instant,
    srtt: Duration,
    round: Round,
    /// Rounds in this phase, and how many it is to have where that is fixed.
    rounds: u64,
    phase_rounds: u64,
    /// Packets lost, as a share, smoothed.
    loss: f64,

    /// The best rate of `Startup`, and rounds since it grew.
    full_rate: f64,
    full_rounds: u32,
    queue: Queue,
    step: f64,
    rate_before: f64,
    /// While little is under way, and the shortest round trip of that time.
    probe_rtt_until: Option<Instant>,
    probed_rtt: Duration,
    /// May be sent now, bytes.
    credit: f64,
    credit_at: Instant,
}

/// One round trip: from sending a packet until it is acknowledged.
#[derive(Debug, Clone, Copy)]
struct Round {
    ends_with: u64,
    began_with: u64,
    lost: u64,
    marked: bool,
    rate: f64,
    min_rtt: Duration,
    app_limited: bool,
}

impl Round {
    fn new(delivered: u64) -> Self {
        Self {
            ends_with: delivered,
            began_with: delivered,
            lost: 0,
            marked: false,
            rate: 0.0,
            min_rtt: Duration::MAX,
            app_limited: false,
        }
    }

    fn loss(&self, delivered: u64) -> f64 {
        self.lost as f64 / (self.lost + delivered - self.began_with).max(1) as f64
    }
}

/// The quickest of a few acknowledgements.
#[derive(Debug, Clone, Copy)]
struct Queue {
    samples: u32,
    quickest: Duration,
}

impl Model {
    /// Of a path with packets of so many bytes, acknowledged by the `ack_threshold`, that begins with `window` bytes.
    pub(super) fn new(now: Instant, packet: u64, ack_threshold: u64, window: u64) -> Self {
        Self {
            packet,
            ack_threshold,
            phase: Phase::Startup,
            window,
            in_flight: 0,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            notes: VecDeque::new(),
            acked: 0,
            newest: None,
            app_limited_until: None,
            max_rate: [0.0; 2],
            cycle_counts: false,
            bound: None,
            min_rtt: Duration::MAX,
            min_rtt_at: now,
            srtt: Duration::ZERO,
            round: Round::new(0),
            rounds: 0,
            phase_rounds: 0,
            loss: 0.0,
            full_rate: 0.0,
            full_rounds: 0,
            queue: Queue { samples: 0, quickest: Duration::MAX },
            step: FIRST_STEP,
            rate_before: 0.0,
            probe_rtt_until: None,
            probed_rtt: Duration::MAX,
            credit: 0.0,
            credit_at: now,
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// The size of packets has changed.
    pub(super) fn resize(&mut self, packet: u64) {
        self.packet = packet;
    }

    /// So many bytes were sent at once.
    pub(super) fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        self.in_flight += bytes;
        self.credit = (self.credit - bytes as f64).max(0.0);
        let step = self.srtt / NOTES_PER_ROUND_TRIP;
        if self.notes.back().is_none_or(|note| now > note.sent_at + step) {
            self.notes.push_back(Note {
                sent_at: now,
                first_sent_at: self.first_sent_at,
                delivered: self.delivered,
                delivered_at: self.delivered_at,
                app_limited: self.app_limited_until.is_some(),
            });
        }
    }

    /// A packet that was sent then has arrived. [`Model::on_acks_end`] follows.
    pub(super) fn on_ack(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.acked += bytes;
        self.newest = self.newest.max(Some(sent));
    }

    /// All packets of an acknowledgement were told. `in_flight` bytes are still under way; `app_limited`: there was not enough to send.
    pub(super) fn on_acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool, srtt: Duration) {
        self.in_flight = in_flight;
        self.srtt = srtt;
        self.delivered_at = now;
        if self.app_limited_until.is_some_and(|until| self.delivered > until) {
            self.app_limited_until = None;
        }
        if app_limited {
            self.app_limited_until = Some(self.delivered + in_flight);
            // A window that is not used does not open.
            self.acked = 0;
        }
        if let Some(sent) = self.newest.take() {
            self.take_sample(now, sent);
        }
        self.expire_min_rtt(now, app_limited);
        self.advance(now);
        self.set_window(now);
    }

    /// So many bytes are lost. `persistent`: for several round trips nothing has arrived.
    pub(super) fn on_lost(&mut self, now: Instant, bytes: u64, persistent: bool) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.round.lost += bytes;
        if persistent {
            let begin = Self::new(now, self.packet, self.ack_threshold, self.least_window());
            *self = Self { in_flight: self.in_flight, min_rtt: self.min_rtt, srtt: self.srtt, ..begin };
            return;
        }
        self.set_window(now);
    }

    /// A router on the way has marked packets instead of dropping them (ECN).
    pub(super) fn on_marked(&mut self) {
        self.round.marked = true;
    }

    fn take_sample(&mut self, now: Instant, sent: Instant) {
        let rtt = now.saturating_duration_since(sent);
        if rtt <= self.min_rtt {
            self.min_rtt = rtt;
        }
        if rtt <= self.min_rtt.mul_f64(1.0 + ABOUT_AS_SHORT) {
            self.min_rtt_at = now;
        }
        self.round.min_rtt = self.round.min_rtt.min(rtt);
        self.probed_rtt = self.probed_rtt.min(rtt);
        self.queue.samples += 1;
        self.queue.quickest = self.queue.quickest.min(rtt);

        let Some(index) = self.notes.partition_point(|note| note.sent_at <= sent).checked_sub(1) else {
            return;
        };
        self.notes.drain(..index);
        let note = self.notes[0];
        self.first_sent_at = note.sent_at;
        let interval = (note.sent_at - note.first_sent_at).max(now - note.delivered_at);
        // Shorter ones are of acknowledgements that came in a bunch.
        if interval >= self.min_rtt && !interval.is_zero() {
            let rate = (self.delivered - note.delivered) as f64 / interval.as_secs_f64();
            self.round.rate = self.round.rate.max(rate);
            if !note.app_limited || rate >= self.rate() {
                self.max_rate[0] = self.max_rate[0].max(rate);
                self.cycle_counts |= !note.app_limited;
            }
        }
        self.round.app_limited |= note.app_limited;
        if note.delivered >= self.round.ends_with {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let Round { rate, min_rtt, app_limited, lost, marked, .. } = self.round;
        let loss = self.round.loss(self.delivered);
        let lossy = marked || loss > MOST_LOSS && lost > FEWEST_LOST * self.packet;
        self.round = Round::new(self.delivered);
        self.rounds += 1;
        self.loss += (loss.min(MOST_LOSS) - self.loss) / 4.0;
        match self.phase {
            Phase::Startup => {
                if rate >= self.full_rate * GROWTH {
                    (self.full_rate, self.full_rounds) = (rate, 0);
                } else if !app_limited {
                    self.full_rounds += 1;
                }
                if self.full_rounds >= ROUNDS_WITHOUT_GROWTH || lossy {
                    self.enter(Phase::Full);
                }
            }
            Phase::Full | Phase::Drain | Phase::ProbeRtt => {}
            Phase::Up | Phase::Look if lossy => self.enter(Phase::Down),
            Phase::Cruise | Phase::Up | Phase::Look | Phase::Down => {
                let queued = min_rtt > 2 * self.min_rtt + LEAST_QUEUE;
                if (lossy || queued) && !app_limited {
                    self.bound = Some(rate.max(BETA * self.rate()));
                }
            }
        }
    }

    /// Goes on to the next phase, if it is time to.
    fn advance(&mut self, now: Instant) {
        let is_queue_new = self.phase == Phase::Startup && self.shows_queue();
        match self.phase {
            Phase::Startup if is_queue_new => self.enter(Phase::Full),
            Phase::Full if self.rounds >= 1 => self.enter(Phase::Drain),
            Phase::Drain | Phase::Down if self.in_flight <= self.product(1.0) || self.rounds >= 4 => {
                self.enter(Phase::Cruise);
            }
            Phase::Cruise if self.rounds >= self.phase_rounds => {
                self.step = FIRST_STEP;
                self.enter(Phase::Up);
            }
            Phase::Up if self.rounds >= 1 => self.enter(Phase::Look),
            Phase::Look if self.rounds >= 1 => {
                if self.rate() >= self.rate_before * (1.0 + WORTH_OF_STEP * self.step) {
                    self.step = (2.0 * self.step).min(LARGEST_STEP);
                    self.enter(Phase::Up);
                } else {
                    self.enter(Phase::Down);
                }
            }
            Phase::ProbeRtt => self.probe_rtt(now),
            _ => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        match phase {
            Phase::Full => self.window = self.window.min(self.in_flight.max(self.least_window())),
            Phase::Cruise => {
                self.phase_rounds = FEWEST_CRUISES + self.delivered / self.packet % VARIED_CRUISES;
            }
            Phase::Up => {
                self.bound = None;
                self.rate_before = self.rate();
            }
            Phase::Down if self.cycle_counts => {
                self.max_rate = [0.0, self.max_rate[0]];
                self.cycle_counts = false;
            }
            _ => {}
        }
        self.phase = phase;
        // A round of this phase is one of packets that are sent in it.
        self.round.ends_with = self.delivered;
        self.rounds = 0;
    }

    fn shows_queue(&mut self) -> bool {
        let queue = self.queue;
        if queue.samples < RTT_SAMPLES {
            return false;
        }
        self.queue = Queue { samples: 0, quickest: Duration::MAX };
        queue.quickest > self.min_rtt + (self.min_rtt / 4).max(LEAST_QUEUE)
    }

    fn expire_min_rtt(&mut self, now: Instant, app_limited: bool) {
        let probing = matches!(self.phase, Phase::Startup | Phase::Full | Phase::ProbeRtt);
        if !probing && !app_limited && now > self.min_rtt_at + MIN_RTT_LIFETIME {
            self.probe_rtt_until = None;
            self.enter(Phase::ProbeRtt);
        }
    }

    fn probe_rtt(&mut self, now: Instant) {
        match self.probe_rtt_until {
            None if self.in_flight <= self.product(PROBE_RTT_GAIN) => {
                self.probe_rtt_until = Some(now + PROBE_RTT_TIME);
                self.probed_rtt = Duration::MAX;
                self.enter(Phase::ProbeRtt);
            }
            Some(until) if now >= until && self.rounds >= 1 => {
                self.min_rtt = self.probed_rtt;
                self.min_rtt_at = now;
                self.enter(Phase::Cruise);
            }
            _ => {}
        }
    }

    /// Bytes a second that the path delivers.
    pub(super) fn rate(&self) -> f64 {
        let rate = self.max_rate[0].max(self.max_rate[1]);
        self.bound.map_or(rate, |bound| rate.min(bound))
    }

    /// So many bandwidth-delay products, and what waits for an acknowledgement.
    fn product(&self, gain: f64) -> u64 {
        bytes(gain * self.rate() * self.min_rtt.as_secs_f64()) + self.ack_threshold * self.packet
    }

    fn least_window(&self) -> u64 {
        FEWEST_PACKETS * self.packet
    }

    fn gain(&self) -> f64 {
        match self.phase {
            Phase::Drain => DRAIN_GAIN,
            Phase::Down => DOWN_GAIN,
            Phase::Up => 1.0 + self.step,
            Phase::Startup | Phase::Full | Phase::Cruise | Phase::Look | Phase::ProbeRtt => 1.0,
        }
    }

    /// After something has arrived or was lost.
    fn set_window(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.credit_at).as_secs_f64();
        self.credit_at = now;
        let (rate, srtt) = (self.gain() * self.rate() / (1.0 - self.loss), self.srtt.as_secs_f64());
        self.credit = (self.credit + rate * elapsed).min(rate * srtt * CATCH_UP);
        let window = match self.phase {
            Phase::Startup => {
                let most = self.window.max(self.product(STARTUP_WINDOW_GAIN));
                (self.window + self.acked).min(most)
            }
            Phase::Full => self.window,
            Phase::ProbeRtt => self.product(PROBE_RTT_GAIN),
            Phase::Drain | Phase::Cruise | Phase::Up | Phase::Look | Phase::Down => {
                // Where little is under way, quinn's pacer keeps to the rate by itself.
                let paced = bytes(rate * srtt / PACER_GAIN);
                (self.in_flight + bytes(self.credit)).max(paced).min(self.product(WINDOW_GAIN))
            }
        };
        self.window = window.max(self.least_window());
        self.acked = 0;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no negative ones come, and saturating is right"
)]
fn bytes(count: f64) -> u64 {
    count as u64
}
