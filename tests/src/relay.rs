//! A path between two nodes that misbehaves as it is told: it loses, delays, copies, reorders and damages what it carries, falls
//! silent, or forgets the flows that it knew, as a NAT does. It carries UDP and TCP on one port, and decides by seed.
//!
//! Datagrams meet all of it. On a TCP connection, where the kernel repairs losses and order, the path can only be slow, silent
//! or forgetful, or damage bytes above the kernel's checksums.

mod datagrams;
mod streams;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use crate::Dice;

/// Tries to find a port that is free for UDP and for TCP.
const PORT_TRIES: u32 = 20;

/// After so long a connection that was forgotten is reset. Longer than an end waits for what it sent to be acknowledged: that end
/// sees the loss some seconds before the other one.
pub const RESET_AFTER: Duration = Duration::from_secs(30);

/// What happens to what is carried. Chances are per mille of all datagrams, or of all pieces of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Datagrams that are lost; from 1000 on nothing passes, on TCP neither.
    pub lost: u32,
    /// Datagrams that arrive twice.
    pub doubled: u32,
    /// Datagrams that others overtake.
    pub late: u32,
    /// Datagrams and pieces with one bit flipped.
    pub damaged: u32,
    /// How long everything takes.
    pub delay: Duration,
}

impl Weather {
    /// Everything arrives at once.
    pub const CLEAR: Self = Self { lost: 0, doubled: 0, late: 0, damaged: 0, delay: Duration::ZERO };
    /// Nothing arrives.
    pub const SILENT: Self = Self { lost: 1000, ..Self::CLEAR };

    fn is_silent(&self) -> bool {
        self.lost >= 1000
    }
}

/// The path, which ends with the value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    path: Arc<Path>,
    _carrying: [AbortOnDropHandle<()>; 2],
}

/// What all flows share.
#[derive(Debug)]
struct Path {
    exit: Ipv4Addr,
    target: SocketAddr,
    sky: Mutex<(Weather, Dice)>,
    /// Flows that began in an earlier one are forgotten.
    epoch: watch::Sender<u64>,
    /// Connections that are forgotten go on, and nothing comes out of them.
    swallows: AtomicBool,
    towards: AtomicU64,
    back: AtomicU64,
}

impl Relay {
    /// To the node that listens at `target`. Needs a tokio runtime.
    pub async fn to(target: SocketAddr, seed: u64) -> Result<Self> {
        Self::leaving_from(Ipv4Addr::LOCALHOST, target, seed).await
    }

    /// The same where the target sees those who dial at the address `exit` of this machine.
    pub async fn leaving_from(exit: Ipv4Addr, target: SocketAddr, seed: u64) -> Result<Self> {
        let (datagrams, streams) = listen().await?;
        let address = datagrams.local_addr()?;
        let path = Arc::new(Path {
            exit,
            target,
            sky: Mutex::new((Weather::CLEAR, Dice::new(seed))),
            epoch: watch::Sender::new(0),
            swallows: AtomicBool::new(false),
            towards: AtomicU64::new(0),
            back: AtomicU64::new(0),
        });
        let carrying = [
            tokio::spawn(datagrams::carry(datagrams, Arc::clone(&path))),
            tokio::spawn(streams::carry(streams, Arc::clone(&path))),
        ];
        Ok(Self { address, path, _carrying: carrying.map(AbortOnDropHandle::new) })
    }

    /// Where to knock instead of at the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens from now on.
    pub fn set(&self, weather: Weather) {
        self.path.sky.lock().unwrap_or_else(PoisonError::into_inner).0 = weather;
    }

    /// Nothing of the flows that there are passes any more; new ones do. Connections over TCP stand still, and are reset after
    /// [`RESET_AFTER`]: the path ends them itself, so that their ends hear of it no earlier from their own kernels.
    pub fn forget_flows(&self) {
        self.path.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// The same, but connections over TCP never hear of it: what comes on them is acknowledged, as some middleboxes do, and
    /// goes nowhere.
    pub fn swallow_flows(&self) {
        self.path.swallows.store(true, Ordering::Relaxed);
        self.forget_flows();
    }

    /// Bytes that came from those who dialled, also those that were lost here.
    pub fn bytes_towards_target(&self) -> u64 {
        self.path.towards.load(Ordering::Relaxed)
    }

    /// The same from the target.
    pub fn bytes_from_target(&self) -> u64 {
        self.path.back.load(Ordering::Relaxed)
    }
}

impl Path {
    fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    fn knows(&self, born: u64) -> bool {
        born == self.epoch()
    }

    fn swallows(&self) -> bool {
        self.swallows.load(Ordering::Relaxed)
    }

    /// Completes when the flows of an epoch are forgotten.
    async fn forgets(&self, born: u64) {
        // The sender is in the path, which is here.
        let _ = self.epoch.subscribe().wait_for(|epoch| *epoch != born).await;
    }

    fn weather(&self) -> Weather {
        self.sky.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// After how long each copy of a datagram arrives; none of one that is lost. Damages it where that is its fate.
    fn fates(&self, datagram: &mut [u8]) -> Vec<Duration> {
        let mut sky = self.sky.lock().unwrap_or_else(PoisonError::into_inner);
        let (weather, dice) = &mut *sky;
        if weather.is_silent() || dice.per_mille(weather.lost) {
            return Vec::new();
        }
        if dice.per_mille(weather.damaged) {
            flip_one_bit(datagram, dice);
        }
        let copies = if dice.per_mille(weather.doubled) { 2 } else { 1 };
        let arrives = |dice: &mut Dice| {
            let late = if dice.per_mille(weather.late) { 1 + dice.below(20) } else { 0 };
            weather.delay + Duration::from_millis(late)
        };
        (0..copies).map(|_| arrives(dice)).collect()
    }

    /// How long a piece of a connection takes. Damages it where that is its fate.
    fn fate_of_piece(&self, piece: &mut [u8]) -> Duration {
        let mut sky = self.sky.lock().unwrap_or_else(PoisonError::into_inner);
        let (weather, dice) = &mut *sky;
        if dice.per_mille(weather.damaged) {
            flip_one_bit(piece, dice);
        }
        weather.delay
    }
}

fn flip_one_bit(bytes: &mut [u8], dice: &mut Dice) {
    if !bytes.is_empty() {
        let at = dice.below(bytes.len() as u64 * 8);
        bytes[usize::try_from(at / 8).expect("it is below the length")] ^= 1 << (at % 8);
    }
}

/// Both on one port.
async fn listen() -> Result<(UdpSocket, TcpListener)> {
    for _ in 0..PORT_TRIES {
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        if let Ok(streams) = TcpListener::bind(datagrams.local_addr()?).await {
            return Ok((datagrams, streams));
        }
    }
    None.context("no port of this machine is free for both UDP and TCP")
}

#[cfg(test)]
mod tests;
