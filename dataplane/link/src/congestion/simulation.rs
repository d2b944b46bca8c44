//! Connections over one bottleneck, in simulated time: a line with a rate, a round trip, a queue and random loss; senders
//! that ask the model for their window, pace as quinn does and hear of losses as quinn does; receivers that acknowledge
//! by the dozen.
//!
//! One simulated packet stands for ten.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use super::model::Model;

const PACKET: u64 = 14_520;
const MS: Duration = Duration::from_millis(1);
const ACK_THRESHOLD: u64 = 4;
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
const REORDERING: u64 = 3;

#[derive(Debug, Clone, Copy)]
struct Line {
    bits_per_second: f64,
    round_trip: Duration,
    loss: f64,
    /// The longest that a packet waits.
    queue: Duration,
}

impl Line {
    fn bytes_per_second(&self) -> f64 {
        self.bits_per_second / 8.0
    }
}

/// What a connection has to send: always something, or so much a second.
#[derive(Debug, Clone, Copy)]
enum Supply {
    Endless,
    BytesPerSecond(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives { flow: usize, number: u64 },
    Delayed { flow: usize, count: u64 },
    Acknowledged { flow: usize, ack: usize },
    Sends { flow: usize },
}

struct Flow {
    model: Model,
    supply: Supply,
    began: Instant,
    in_flight: u64,
    sent: u64,
    under_way: BTreeMap<u64, Instant>,
    next: u64,
    srtt: Option<Duration>,
    app_limited: bool,
    tokens: f64,
    refilled: Instant,
    wakes: bool,
    // The receiver.
    unacknowledged: Vec<u64>,
    largest: u64,
    batches: u64,
    acks: VecDeque<Vec<u64>>,
    acks_gone: usize,
    /// Packets that came.
    arrived: u64,
    lost: u64,
}

struct World {
    now: Instant,
    line: Line,
    free_at: Instant,
    longest_wait: Duration,
    events: BinaryHeap<Reverse<(Instant, u64, What)>>,
    sequence: u64,
    random: u64,
    flows: Vec<Flow>,
}

impl World {
    fn new(line: Line) -> Self {
        let now = Instant::now();
        Self {
            now,
            line,
            free_at: now,
            longest_wait: Duration::ZERO,
            events: BinaryHeap::new(),
            sequence: 0,
            random: 1,
            flows: Vec::new(),
        }
    }

    fn add(&mut self, supply: Supply) -> usize {
        let flow = self.flows.len();
        self.flows.push(Flow {
            model: Model::new(self.now, PACKET, ACK_THRESHOLD, 4 * PACKET),
            supply,
            began: self.now,
            in_flight: 0,
            sent: 0,
            under_way: BTreeMap::new(),
            next: 1,
            srtt: None,
            app_limited: false,
            tokens: 0.0,
            refilled: self.now,
            wakes: false,
            unacknowledged: Vec::new(),
            largest: 0,
            batches: 0,
            acks: VecDeque::new(),
            acks_gone: 0,
            arrived: 0,
            lost: 0,
        });
        self.at(Duration::ZERO, What::Sends { flow });
        flow
    }

    fn at(&mut self, after: Duration, what: What) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + after, self.sequence, what)));
    }

    fn chance(&mut self) -> f64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Goes on for so long; gives what each flow delivered meanwhile, as a share of the line.
    fn run(&mut self, time: Duration) -> Vec<f64> {
        let end = self.now + time;
        let before: Vec<_> = self.flows.iter().map(|flow| flow.arrived).collect();
        self.longest_wait = Duration::ZERO;
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at <= end
        {
            let Reverse((at, _, what)) = self.events.pop().unwrap();
            self.now = at;
            match what {
                What::Arrives { flow, number } => self.arrives(flow, number),
                What::Delayed { flow, count } => {
                    if self.flows[flow].batches == count {
                        self.acknowledge(flow);
                    }
                }
                What::Acknowledged { flow, ack } => self.acknowledged(flow, ack),
                What::Sends { flow } => {
                    self.flows[flow].wakes = false;
                    self.send(flow);
                }
            }
        }
        self.now = end;
        let capacity = self.line.bytes_per_second() * time.as_secs_f64();
        let share = |(flow, before): (&Flow, u64)| ((flow.arrived - before) * PACKET) as f64 / capacity;
        self.flows.iter().zip(before).map(share).collect()
    }

    /// Sends what window, pacer and supply allow.
    fn send(&mut self, flow: usize) {
        loop {
            let now = self.now;
            let f = &mut self.flows[flow];
            if let Supply::BytesPerSecond(rate) = f.supply
                && f.sent as f64 + PACKET as f64 > rate * (now - f.began).as_secs_f64() + PACKET as f64
            {
                f.app_limited = true;
                let wait = Duration::from_secs_f64(
                    ((f.sent + 1) as f64 / rate - (now - f.began).as_secs_f64()).max(1e-4),
                );
                self.wake(flow, wait);
                return;
            }
            f.app_limited = false;
            let window = f.model.window();
            if f.in_flight + PACKET >= window {
                return;
            }
            if let Some(srtt) = f.srtt {
                let rate = 1.25 * window as f64 / srtt.as_secs_f64();
                let most = (rate * 0.0016).max(PACKET as f64);
                f.tokens = (f.tokens + rate * (now - f.refilled).as_secs_f64()).min(most);
                f.refilled = now;
                if f.tokens + 1.0 < PACKET as f64 {
                    let wait = (PACKET as f64 - f.tokens) / rate;
                    self.wake(flow, Duration::from_secs_f64(wait));
                    return;
                }
                f.tokens -= PACKET as f64;
            }
            let number = f.next;
            f.next += 1;
            f.in_flight += PACKET;
            f.sent += PACKET;
            f.under_way.insert(number, now);
            f.model.on_sent(now, PACKET);
            self.enter_line(flow, number);
        }
    }

    fn wake(&mut self, flow: usize, wait: Duration) {
        if !std::mem::replace(&mut self.flows[flow].wakes, true) {
            self.at(wait, What::Sends { flow });
        }
    }

    fn enter_line(&mut self, flow: usize, number: u64) {
        let begins = self.free_at.max(self.now);
        let waits = begins - self.now;
        if waits > self.line.queue {
            return;
        }
        self.longest_wait = self.longest_wait.max(waits);
        self.free_at = begins + Duration::from_secs_f64(PACKET as f64 / self.line.bytes_per_second());
        if self.chance() >= self.line.loss {
            let after = self.free_at - self.now + self.line.round_trip / 2;
            self.at(after, What::Arrives { flow, number });
        }
    }

    fn arrives(&mut self, flow: usize, number: u64) {
        let f = &mut self.flows[flow];
        f.arrived += 1;
        f.unacknowledged.push(number);
        let gap = number != f.largest + 1;
        f.largest = number;
        if gap || f.unacknowledged.len() as u64 >= ACK_THRESHOLD {
            self.acknowledge(flow);
        } else if f.unacknowledged.len() == 1 {
            let count = f.batches;
            self.at(MAX_ACK_DELAY, What::Delayed { flow, count });
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        let f = &mut self.flows[flow];
        f.batches += 1;
        let packets = std::mem::take(&mut f.unacknowledged);
        if packets.is_empty() {
            return;
        }
        f.acks.push_back(packets);
        let ack = f.acks_gone + f.acks.len() - 1;
        self.at(self.line.round_trip / 2, What::Acknowledged { flow, ack });
    }

    fn acknowledged(&mut self, flow: usize, ack: usize) {
        let now = self.now;
        let f = &mut self.flows[flow];
        assert_eq!(ack, f.acks_gone, "they come in order");
        f.acks_gone += 1;
        let packets = f.acks.pop_front().unwrap();
        let largest = *packets.last().unwrap();
        let mut rtt = None;
        for number in packets {
            let Some(sent) = f.under_way.remove(&number) else { continue };
            f.in_flight -= PACKET;
            f.model.on_ack(sent, PACKET);
            rtt = Some(now - sent);
        }
        let srtt = f.srtt.or(rtt).unwrap_or(MS);
        f.model.on_acks_end(now, f.in_flight, f.app_limited, srtt);
        if let Some(rtt) = rtt {
            f.srtt = Some((srtt * 7 + rtt) / 8);
        }
        let lost: Vec<_> =
            f.under_way.range(..largest.saturating_sub(REORDERING - 1)).map(|(n, _)| *n).collect();
        for number in &lost {
            f.under_way.remove(number);
            f.in_flight -= PACKET;
        }
        if !lost.is_empty() {
            f.lost += lost.len() as u64;
            f.model.on_lost(now, lost.len() as u64 * PACKET, false);
        }
        self.send(flow);
    }
}

fn long(megabits: f64, milliseconds: u32, loss: f64) -> Line {
    let round_trip = milliseconds * MS;
    Line { bits_per_second: megabits * 1e6, round_trip, loss, queue: round_trip }
}

#[test]
fn random_loss_does_not_keep_a_long_line_from_being_full() {
    for (milliseconds, loss, least) in [(100, 0.001, 0.97), (200, 0.02, 0.95)] {
        let mut world = World::new(long(1000.0, milliseconds, loss));
        world.add(Supply::Endless);
        world.run(milliseconds * 15 * MS);
        let share = world.run(30_000 * MS)[0];
        assert!(share > least, "{share} of {milliseconds} ms, {loss}");
        assert!(world.longest_wait < world.line.round_trip * 3 / 4, "{:?} in its queue", world.longest_wait);
    }
}

#[test]
fn a_line_is_full_after_a_dozen_round_trips() {
    let mut world = World::new(long(1000.0, 100, 0.001));
    world.add(Supply::Endless);
    world.run(1_200 * MS);
    let share = world.run(200 * MS)[0];
    assert!(share > 0.95, "{share}");
    let flow = &world.flows[0];
    assert!(flow.lost * 10 < flow.next, "{} lost of {}", flow.lost, flow.next);
}

#[test]
fn two_connections_share_a_line() {
    let mut world = World::new(long(200.0, 50, 0.001));
    world.add(Supply::Endless);
    world.run(5_000 * MS);
    world.add(Supply::Endless);
    world.run(15_000 * MS);
    let shares = world.run(30_000 * MS);
    assert!(shares.iter().all(|share| *share > 0.25), "{shares:?}");
    assert!(shares.iter().sum::<f64>() > 0.95, "{shares:?}");
}

#[test]
fn it_backs_off_when_the_line_gets_slower_and_finds_it_faster_again() {
    let mut world = World::new(long(1000.0, 50, 0.0));
    world.add(Supply::Endless);
    world.run(5_000 * MS);
    world.line.bits_per_second /= 10.0;
    world.run(5_000 * MS);
    let lost = world.flows[0].lost;
    let share = world.run(10_000 * MS)[0];
    let flow = &world.flows[0];
    assert!(share > 0.95, "{share}");
    assert!(flow.model.rate() < 1.1 * world.line.bytes_per_second(), "it still sends {}", flow.model.rate());
    let (lost, arrived) = (flow.lost - lost, share * 10.0 * world.line.bytes_per_second() / PACKET as f64);
    assert!((lost as f64) < 0.03 * arrived, "{lost} lost, {arrived} arrived");
    world.line.bits_per_second *= 10.0;
    world.run(3_000 * MS);
    let share = world.run(3_000 * MS)[0];
    assert!(share > 0.95, "{share} of what it had before");
}

#[test]
fn more_loss_than_chance_has_is_answered() {
    let mut world = World::new(Line { queue: 5 * MS, ..long(1000.0, 50, 0.0) });
    world.add(Supply::Endless);
    world.run(5_000 * MS);
    let lost = world.flows[0].lost;
    let share = world.run(20_000 * MS)[0];
    let lost = (world.flows[0].lost - lost) as f64 * PACKET as f64 / (20.0 * world.line.bytes_per_second());
    assert!(share > 0.85 && lost < 0.06, "{share}, and {lost} lost, where next to nothing can wait");
}

#[test]
fn what_does_not_fill_the_line_says_nothing_about_it() {
    let mut world = World::new(long(1000.0, 100, 0.001));
    let flow = world.add(Supply::Endless);
    world.run(5_000 * MS);
    let rate = world.flows[flow].model.rate();
    let flow = &mut world.flows[flow];
    (flow.supply, flow.began, flow.sent) = (Supply::BytesPerSecond(1e6), world.now, 0);
    world.run(30_000 * MS);
    assert!(world.flows[0].model.rate() > 0.9 * rate, "{} of {rate}", world.flows[0].model.rate());
    world.flows[0].supply = Supply::Endless;
    world.run(500 * MS);
    let share = world.run(1_000 * MS)[0];
    assert!(share > 0.9, "{share}");
}

#[test]
fn a_longer_way_is_noticed() {
    let mut world = World::new(long(100.0, 50, 0.0));
    world.add(Supply::Endless);
    world.run(3_000 * MS);
    world.line.round_trip = 150 * MS;
    world.run(20_000 * MS);
    let share = world.run(20_000 * MS)[0];
    assert!(share > 0.9, "{share}");
}

#[test]
fn a_dead_line_is_begun_anew() {
    let now = Instant::now();
    let mut model = Model::new(now, PACKET, ACK_THRESHOLD, 100 * PACKET);
    model.on_sent(now, PACKET);
    model.on_lost(now + 1_000 * MS, PACKET, true);
    assert!(model.window() < 10 * PACKET);
}
