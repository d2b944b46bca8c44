//! Sender and receiver over a network that loses, delays, repeats, reorders and damages, between processes that crash.
//!
//! Everything follows from one seed. Faults last for a while and then stop; from there on the stream must get through.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    Ack, Admission, Chunk, ChunkHeader, Digester, Error, Fin, HEADER_BYTES, Lane, Receiver, Sender,
    TransferId,
};

const CHUNK: u64 = 8;

/// How often each fault happens, of 100 times it could.
#[derive(Debug, Clone)]
struct Scenario {
    seed: u64,
    stream_bytes: usize,
    window_bytes: u64,
    lanes: u32,
    lost: u64,
    repeated: u64,
    damaged: u64,
    lane_dies: u64,
    all_lanes_die: u64,
    process_dies: u64,
}

fn scenario(damaged: impl Strategy<Value = u64>) -> impl Strategy<Value = Scenario> {
    let shape = (any::<u64>(), 0..400_usize, CHUNK..CHUNK * 9, 1..5_u32);
    let faults = (0..20_u64, 0..30_u64, damaged, 0..30_u64, 0..20_u64, 0..5_u64);
    (shape, faults).prop_map(|(shape, faults)| {
        let (seed, stream_bytes, window_bytes, lanes) = shape;
        let (lost, repeated, damaged, lane_dies, all_lanes_die, process_dies) = faults;
        let (lane_dies, all_lanes_die) = (lane_dies.max(u64::from(lost > 0)), all_lanes_die);
        Scenario {
            seed,
            stream_bytes,
            window_bytes,
            lanes,
            lost,
            repeated,
            damaged,
            lane_dies,
            all_lanes_die,
            process_dies,
        }
    })
}

/// A small generator of its own, so that a failing seed means the same run for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below a usize")
    }

    fn happens(&mut self, percent: u64) -> bool {
        (self.below(100) as u64) < percent
    }
}

#[derive(Clone)]
struct Message {
    header: [u8; HEADER_BYTES],
    payload: Bytes,
    damaged: bool,
}

#[derive(Default)]
struct Wire {
    lane: u32,
    in_flight: Vec<Message>,
}

enum Control {
    Ack(Ack),
    Fin(Fin),
}

struct World {
    scenario: Scenario,
    faults: bool,
    random: Random,
    source: Bytes,
    left: Bytes,
    attempts: u8,
    sender: Sender,
    receiver: Receiver,
    wires: Vec<Wire>,
    lanes_made: u32,
    /// What a dead lane still delivers, long after.
    late: Vec<Message>,
    control: VecDeque<Control>,
    unwritten: VecDeque<Bytes>,
    sink: Vec<u8>,
    damage_done: bool,
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut random = Random(scenario.seed);
        let source: Bytes = (0..scenario.stream_bytes).map(|_| random.below(256).to_le_bytes()[0]).collect();
        let (sender, receiver) = ends(1, scenario.window_bytes);
        let mut world = Self {
            faults: true,
            random,
            left: source.clone(),
            source,
            attempts: 1,
            sender,
            receiver,
            wires: Vec::new(),
            lanes_made: 0,
            late: Vec::new(),
            control: VecDeque::new(),
            unwritten: VecDeque::new(),
            sink: Vec::new(),
            damage_done: false,
            scenario,
        };
        world.reconnect();
        world
    }

    /// Runs until all is written, or something was refused.
    fn run(&mut self) -> Result<(), Error> {
        for step in 0..20_000 {
            if step == 600 {
                // From here on nothing goes wrong any more; what was lost shows as lanes that break once more.
                self.faults = false;
                self.reconnect();
            }
            if self.sender.is_done() && self.receiver.is_done() {
                return Ok(());
            }
            self.step()?;
            self.check_invariants();
        }
        panic!("no end after 20,000 steps: {:?} {:?} {:?}", self.scenario, self.sender, self.receiver);
    }

    fn step(&mut self) -> Result<(), Error> {
        match self.random.below(16) {
            0..3 => self.push(),
            3..6 => self.transmit(),
            6..9 => return self.deliver(),
            9..12 => self.write(),
            12..14 => return self.deliver_control(),
            14 => return self.deliver_late(),
            _ if self.faults => self.fail(),
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self) {
        if self.sender.fin().is_some() {
            return;
        }
        let length = self.random.below(20).min(self.left.len());
        let mut piece = self.left.split_to(length);
        self.sender.push(&mut piece);
        let taken = length - piece.len();
        let at = self.source.len() - self.left.len() - length + taken;
        self.left = self.source.slice(at..);
        if self.left.is_empty() {
            let fin = self.sender.finish();
            self.control.push_back(Control::Fin(fin));
        }
    }

    fn transmit(&mut self) {
        let at = self.random.below(self.wires.len());
        let Some(chunk) = self.sender.next_chunk(Lane(self.wires[at].lane)) else { return };
        let mut message =
            Message { header: chunk.header().encode(), payload: chunk.into_payload(), damaged: false };
        if self.faults && self.random.happens(self.scenario.lost) {
            return;
        }
        if self.faults && self.random.happens(self.scenario.damaged) {
            self.damage(&mut message);
        }
        self.wires[at].in_flight.push(message);
    }

    fn deliver(&mut self) -> Result<(), Error> {
        let at = self.random.below(self.wires.len());
        let in_flight = self.wires[at].in_flight.len();
        if in_flight == 0 {
            return Ok(());
        }
        let which = self.random.below(in_flight);
        let message = if self.faults && self.random.happens(self.scenario.repeated) {
            self.wires[at].in_flight[which].clone()
        } else {
            self.wires[at].in_flight.swap_remove(which)
        };
        self.receive(message)
    }

    /// As the driver does it: header, admission, payload, digest.
    fn receive(&mut self, message: Message) -> Result<(), Error> {
        self.damage_done |= message.damaged;
        let header = ChunkHeader::decode(&message.header)?;
        if self.receiver.check(&header)? == Admission::Duplicate {
            return Ok(());
        }
        self.receiver.accept(Chunk::verify(header, message.payload, &Digester::new(header.transfer))?)?;
        while let Some(bytes) = self.receiver.next_bytes() {
            self.unwritten.push_back(bytes);
        }
        Ok(())
    }

    fn deliver_late(&mut self) -> Result<(), Error> {
        if self.late.is_empty() {
            return Ok(());
        }
        let which = self.random.below(self.late.len());
        let message = self.late.swap_remove(which);
        match self.receive(message) {
            // The driver drops a stream of a transfer that it no longer has.
            Err(Error::OtherTransfer { .. }) => Ok(()),
            other => other,
        }
    }

    fn write(&mut self) {
        let Some(bytes) = self.unwritten.front_mut() else { return };
        let length = self.random.below(bytes.len() + 1);
        self.sink.extend_from_slice(&bytes.split_to(length));
        if bytes.is_empty() {
            self.unwritten.pop_front();
        }
        if let Some(ack) = self.receiver.written(self.sink.len() as u64) {
            self.control.push_back(Control::Ack(ack));
        }
    }

    fn deliver_control(&mut self) -> Result<(), Error> {
        match self.control.pop_front() {
            Some(Control::Ack(ack)) => self.sender.acknowledge(ack),
            Some(Control::Fin(fin)) => self.receiver.fin(fin),
            None => Ok(()),
        }
    }

    fn fail(&mut self) {
        if self.random.happens(self.scenario.lane_dies) {
            let at = self.random.below(self.wires.len());
            self.replace_lane(at);
        }
        if self.random.happens(self.scenario.all_lanes_die) {
            self.reconnect();
        }
        if self.random.happens(self.scenario.process_dies) {
            self.restart();
        }
    }

    fn replace_lane(&mut self, at: usize) {
        self.sender.lane_lost(Lane(self.wires[at].lane));
        for message in std::mem::take(&mut self.wires[at].in_flight) {
            if self.random.happens(50) {
                self.late.push(message);
            }
        }
        self.lanes_made += 1;
        self.wires[at].lane = self.lanes_made;
    }

    /// All connections are new; both ends are as they were, and tell each other again how far they are.
    fn reconnect(&mut self) {
        let lanes = self.scenario.lanes as usize;
        self.wires.resize_with(lanes, Wire::default);
        (0..lanes).for_each(|at| self.replace_lane(at));
        self.control = VecDeque::from([Control::Ack(self.receiver.acknowledged())]);
        self.control.extend(self.sender.fin().map(Control::Fin));
    }

    /// A process dies: what was half received is dropped, and the next attempt is another transfer.
    fn restart(&mut self) {
        self.attempts += 1;
        self.wires.iter_mut().for_each(|wire| self.late.append(&mut wire.in_flight));
        (self.sender, self.receiver) = ends(self.attempts, self.scenario.window_bytes);
        self.left = self.source.clone();
        self.sink.clear();
        self.unwritten.clear();
        self.reconnect();
        if self.attempts == u8::MAX {
            self.faults = false;
        }
    }

    fn damage(&mut self, message: &mut Message) {
        let bit = self.random.below((HEADER_BYTES + message.payload.len()) * 8);
        let mut payload = message.payload.to_vec();
        let byte = match message.header.get_mut(bit / 8) {
            Some(byte) => byte,
            None => &mut payload[bit / 8 - HEADER_BYTES],
        };
        *byte ^= 1 << (bit % 8);
        message.payload = payload.into();
        message.damaged = true;
    }

    fn check_invariants(&self) {
        let unwritten: u64 = self.unwritten.iter().map(|bytes| bytes.len() as u64).sum();
        let held = self.receiver.held_bytes() + unwritten;
        assert!(held <= self.scenario.window_bytes, "the receiver holds {held} bytes");
        assert!(self.sender.room() <= self.scenario.window_bytes);
        let handed_out: Vec<u8> =
            self.sink.iter().copied().chain(self.unwritten.iter().flatten().copied()).collect();
        assert!(self.source.starts_with(&handed_out), "what was handed out is a prefix of the stream");
    }
}

fn ends(attempt: u8, window_bytes: u64) -> (Sender, Receiver) {
    let transfer = TransferId([attempt; 16]);
    let sender = Sender::with_chunks_of(CHUNK, transfer, window_bytes).unwrap();
    (sender, Receiver::with_chunks_of(CHUNK, transfer, window_bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn without_damage_the_stream_gets_through_whole(scenario in scenario(Just(0))) {
        let mut world = World::new(scenario);
        prop_assert_eq!(world.run(), Ok(()));
        prop_assert_eq!(&world.sink, &world.source);
    }

    #[test]
    fn damage_is_refused_or_does_not_matter(scenario in scenario(1..10_u64)) {
        let mut world = World::new(scenario);
        match world.run() {
            Ok(()) => prop_assert_eq!(&world.sink, &world.source),
            Err(error) => prop_assert!(world.damage_done, "{} without damage", error),
        }
    }
}
