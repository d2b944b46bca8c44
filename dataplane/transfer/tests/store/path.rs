//! A network between two nodes that can be made to fail, or be slow.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// Passes datagrams on between nodes, each flow from a port of its own, and can break all flows that there are: like a
/// NAT that forgets.
pub(crate) struct Path {
    pub(crate) address: SocketAddr,
    flows: Arc<Mutex<HashMap<SocketAddr, Flow>>>,
    passed: Arc<AtomicU64>,
    _passing: AbortOnDropHandle<()>,
}

struct Flow {
    out: Arc<UdpSocket>,
    broken: Arc<AtomicBool>,
    _back: AbortOnDropHandle<()>,
}

impl Path {
    /// As fast as it can.
    pub(crate) async fn to(store: SocketAddr) -> Self {
        Self::slow_to(store, u64::MAX).await
    }

    /// With so many bytes a second towards the store.
    pub(crate) async fn slow_to(store: SocketAddr, bytes_per_second: u64) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        // A queue such as a router has, not one that a single burst fills.
        rustix::net::sockopt::set_socket_recv_buffer_size(&*socket, 2 << 20).unwrap();
        let address = socket.local_addr().unwrap();
        let (flows, passed) = (Arc::default(), Arc::default());
        let line = Line { bytes_per_second, passed: Arc::clone(&passed), free_at: Instant::now() };
        let passing = tokio::spawn(pass(socket, store, Arc::clone(&flows), line));
        Self { address, flows, passed, _passing: AbortOnDropHandle::new(passing) }
    }

    pub(crate) fn break_flows(&self) {
        self.flows.lock().unwrap().values().for_each(|flow| flow.broken.store(true, Ordering::Relaxed));
    }

    /// Bytes that went towards the store.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    pub(crate) fn flows(&self) -> usize {
        self.flows.lock().unwrap().len()
    }
}

/// What lies between.
struct Line {
    bytes_per_second: u64,
    passed: Arc<AtomicU64>,
    free_at: Instant,
}

impl Line {
    /// Takes as long as the bytes take; what comes meanwhile waits in the socket, or is lost.
    async fn carry(&mut self, bytes: u64) {
        self.passed.fetch_add(bytes, Ordering::Relaxed);
        let time = Duration::from_nanos(bytes * 1_000_000_000 / self.bytes_per_second);
        self.free_at = self.free_at.max(Instant::now()) + time;
        // The clock of timers is coarse.
        if self.free_at > Instant::now() + Duration::from_millis(2) {
            sleep_until(self.free_at).await;
        }
    }
}

async fn pass(
    socket: Arc<UdpSocket>,
    store: SocketAddr,
    flows: Arc<Mutex<HashMap<SocketAddr, Flow>>>,
    mut line: Line,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        if !flows.lock().unwrap().contains_key(&from) {
            let out = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
            out.connect(store).await.unwrap();
            let broken = Arc::default();
            let back = pass_back(Arc::clone(&out), Arc::clone(&socket), from, Arc::clone(&broken));
            let flow = Flow { out, broken, _back: AbortOnDropHandle::new(back) };
            flows.lock().unwrap().insert(from, flow);
        }
        let (out, broken) = {
            let flows = flows.lock().unwrap();
            (Arc::clone(&flows[&from].out), flows[&from].broken.load(Ordering::Relaxed))
        };
        if !broken {
            line.carry(length as u64).await;
            // A store that is gone shows itself by its silence.
            let _ = out.send(&buffer[..length]).await;
        }
    }
}

fn pass_back(
    out: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    broken: Arc<AtomicBool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(length) = out.recv(&mut buffer).await {
            if !broken.load(Ordering::Relaxed) {
                let _ = socket.send_to(&buffer[..length], to).await;
            }
        }
    })
}
