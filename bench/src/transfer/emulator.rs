//! A long line between two namespaces: a TUN device in each, and a thread a direction that carries packets over.
//!
//! The two directions share nothing but the devices. As all packets of one take equally long, they come out in the order in
//! which they went in, so they wait in a ring, in the place that they were read into. A thread wakes up a few thousand
//! times a second at most and moves what has come and what is due: 1 Gbit/s is about 20 packets each time.

use std::{
    collections::VecDeque,
    io,
    net::UdpSocket,
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{
    line::{Direction, MTU, Profile},
    network::{Congestion, End, INTERFACE, Network},
    process::now,
};

/// How exactly packets come out, when they are not polled for anyway.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// What is read before it is looked what is due.
const BATCH_PACKETS: usize = 64;
/// So that every line loses the same packets.
const SEED: u64 = 1;
/// How long the ceiling is measured.
const BLAST: Duration = Duration::from_secs(1);
const BLAST_PORT: u16 = 9;
/// IPv4 and UDP.
const BLAST_HEADER_BYTES: usize = 28;

/// A network of two ends with the line between them; both end with the value.
#[derive(Debug)]
pub(crate) struct Emulated {
    network: Network,
    /// Closed to have the threads end.
    stop: Option<OwnedFd>,
    carriers: Vec<JoinHandle<io::Result<()>>>,
}

impl Emulated {
    /// A line of its own, so that nothing of an earlier transfer is on its way there.
    pub(crate) fn open(name: String, profile: Profile, congestion: Congestion) -> Result<Self> {
        let network = Network::apart(name)?;
        let device = |end| -> Result<Arc<SyncDevice>> {
            let build = || DeviceBuilder::new().name(INTERFACE).enable(false).build_sync();
            let device = network.within(end, build)?;
            device.set_nonblocking(true)?;
            Ok(Arc::new(device))
        };
        let (sender, receiver) = (device(End::Sender)?, device(End::Receiver)?);
        network.address_interfaces(congestion)?;
        network.widen()?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let stopped = Arc::new(stopped);
        let mut emulated = Self { network, stop: Some(stop), carriers: Vec::new() };
        let directions = [(Arc::clone(&sender), Arc::clone(&receiver)), (receiver, sender)];
        for ((from, to), seed) in directions.into_iter().zip(SEED..) {
            let (stopped, mut carrier) = (Arc::clone(&stopped), Carrier::new(profile, seed));
            let carry = move || carrier.carry(&from, &to, &stopped);
            emulated.carriers.push(thread::Builder::new().name("line".into()).spawn(carry)?);
        }
        Ok(emulated)
    }

    /// Its two ends.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        drop(self.stop.take());
        for carrier in self.carriers.drain(..) {
            if let Err(error) = carrier.join().expect("carriers do not panic") {
                eprintln!("the emulated line broke: {error}");
            }
        }
    }
}

/// What moves the packets of one direction.
#[derive(Debug)]
struct Carrier {
    direction: Direction,
    random: fastrand::Rng,
    /// A place of [`MTU`] bytes for each packet, used in turn; one is always free for the next. What finds no other free
    /// is dropped: as many as the profile allows fit at full size, small ones may be more.
    places: Vec<u8>,
    next_place: usize,
    underway: VecDeque<Packet>,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    place: usize,
    bytes: usize,
    due: Duration,
}

impl Carrier {
    fn new(profile: Profile, seed: u64) -> Self {
        let packets = profile.packets();
        Self {
            direction: Direction::new(profile),
            random: fastrand::Rng::with_seed(seed),
            places: vec![0; (packets + 1) * MTU],
            next_place: 0,
            underway: VecDeque::with_capacity(packets),
        }
    }

    /// Returns when the other end of `stopped` is closed.
    fn carry(&mut self, from: &SyncDevice, to: &SyncDevice, stopped: &OwnedFd) -> io::Result<()> {
        loop {
            let more = self.take_in(from)?;
            self.let_out(to)?;
            let mut events = [PollFd::new(stopped, PollFlags::empty()), PollFd::new(from, PollFlags::IN)];
            let stops = if more {
                poll(&mut events[..1], Some(&AT_ONCE))?
            } else if self.underway.is_empty() {
                poll(&mut events, None)?
            } else {
                // Not for the device: the next packet alone is not worth to wake up for.
                poll(&mut events[..1], Some(&TICK))?
            };
            if stops > 0 && !events[0].revents().is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads a batch; whether there may be more.
    fn take_in(&mut self, from: &SyncDevice) -> io::Result<bool> {
        let now = now();
        for _ in 0..BATCH_PACKETS {
            let place = self.next_place * MTU;
            let bytes = match from.recv(&mut self.places[place..place + MTU]) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let is_full = (self.underway.len() + 1) * MTU == self.places.len();
            let due = self.direction.admit(now, bytes, self.random.f64());
            if let (Some(due), false) = (due, is_full) {
                self.underway.push_back(Packet { place, bytes, due });
                self.next_place = (self.next_place + 1) % (self.places.len() / MTU);
            }
        }
        Ok(true)
    }

    /// Writes all that is due.
    fn let_out(&mut self, to: &SyncDevice) -> io::Result<()> {
        let now = now();
        while let Some(packet) = self.underway.pop_front_if(|packet| packet.due <= now) {
            to.send(&self.places[packet.place..packet.place + packet.bytes])?;
        }
        Ok(())
    }
}

/// Bits a second that pass an emulated line without delay, loss and rate, as UDP packets of full size sent as fast as a core
/// can: what is emulated has to stay well below.
pub(crate) fn ceiling() -> Result<f64> {
    let line = Emulated::open("open".into(), Profile::OPEN, Congestion::Cubic)?;
    let network = line.network();
    let bind = |port| move || UdpSocket::bind(("0.0.0.0", port));
    let receiver = network.within(End::Receiver, bind(BLAST_PORT))?;
    receiver.set_read_timeout(Some(BLAST))?;
    let sender = network.within(End::Sender, bind(0))?;
    sender.connect((network.receiver_address(), BLAST_PORT))?;
    let end = Instant::now() + BLAST;
    let mut packets: u32 = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                // A queue that is full may refuse it; only what arrives counts.
                let _ = sender.send(&[0; MTU - BLAST_HEADER_BYTES]);
            }
        });
        let mut buffer = [0; MTU];
        while Instant::now() < end {
            packets += u32::from(receiver.recv(&mut buffer).is_ok());
        }
    });
    Ok(f64::from(packets) * (MTU * 8) as f64 / BLAST.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_has_room_for_the_line_and_one_more_packet() {
        let profile = Profile::long(12_000_000, Duration::from_millis(100), 0.0);
        let carrier = Carrier::new(profile, SEED);
        assert_eq!(carrier.places.len(), (profile.packets() + 1) * MTU);
    }
}
