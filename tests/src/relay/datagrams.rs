//! The path for datagrams. Each flow leaves from a port of its own, so that answers find their way.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::UdpSocket, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::Path;

const LARGEST_DATAGRAM: usize = 65_536;

/// Flows at once; datagrams of further ones are dropped.
const MAX_FLOWS: usize = 4_096;

/// Bytes that are under way at once in one direction. More are dropped, as routers do.
const MAX_UNDER_WAY_BYTES: usize = 32 << 20;

struct Flow {
    born: u64,
    out: Arc<UdpSocket>,
    _back: AbortOnDropHandle<()>,
}

/// From those who dial to the target; what answers runs beside it, flow by flow.
pub(super) async fn carry(socket: UdpSocket, path: Arc<Path>) {
    let socket = Arc::new(socket);
    let mut flows = HashMap::new();
    let mut under_way = UnderWay::default();
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // The kernel reports here that nobody listened where an earlier datagram went.
                let Ok((length, from)) = received else { continue };
                path.towards.fetch_add(length as u64, Ordering::Relaxed);
                if let Some(flow) = flow(&mut flows, from, &socket, &path).await
                    && path.knows(flow.born)
                {
                    let fates = path.fates(&mut buffer[..length]);
                    under_way.send(&buffer[..length], &fates, &flow.out, None).await;
                }
            }
            () = under_way.next() => under_way.deliver().await,
        }
    }
}

async fn flow<'a>(
    flows: &'a mut HashMap<SocketAddr, Flow>,
    from: SocketAddr,
    socket: &Arc<UdpSocket>,
    path: &Arc<Path>,
) -> Option<&'a Flow> {
    if !flows.contains_key(&from) {
        if flows.len() >= MAX_FLOWS {
            return None;
        }
        let out = Arc::new(UdpSocket::bind((path.exit, 0)).await.ok()?);
        out.connect(path.target).await.ok()?;
        let born = path.epoch();
        let back =
            tokio::spawn(carry_back(Arc::clone(&out), Arc::clone(socket), from, born, Arc::clone(path)));
        flows.insert(from, Flow { born, out, _back: AbortOnDropHandle::new(back) });
    }
    flows.get(&from)
}

async fn carry_back(out: Arc<UdpSocket>, socket: Arc<UdpSocket>, to: SocketAddr, born: u64, path: Arc<Path>) {
    let mut under_way = UnderWay::default();
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        tokio::select! {
            received = out.recv(&mut buffer) => {
                let Ok(length) = received else { continue };
                path.back.fetch_add(length as u64, Ordering::Relaxed);
                if path.knows(born) {
                    let fates = path.fates(&mut buffer[..length]);
                    under_way.send(&buffer[..length], &fates, &socket, Some(to)).await;
                }
            }
            () = under_way.next() => under_way.deliver().await,
        }
    }
}

/// Datagrams that arrive later, the next one first.
#[derive(Default)]
struct UnderWay {
    waiting: BinaryHeap<Reverse<Waiting>>,
    bytes: usize,
    sent: u64,
}

impl UnderWay {
    async fn send(
        &mut self,
        datagram: &[u8],
        fates: &[Duration],
        socket: &Arc<UdpSocket>,
        to: Option<SocketAddr>,
    ) {
        for delay in fates {
            if delay.is_zero() && self.waiting.is_empty() {
                deliver(datagram, socket, to).await;
            } else if self.bytes + datagram.len() <= MAX_UNDER_WAY_BYTES {
                self.sent += 1;
                self.bytes += datagram.len();
                let (due, number) = (Instant::now() + *delay, self.sent);
                let waiting =
                    Waiting { due, number, bytes: datagram.to_vec(), socket: Arc::clone(socket), to };
                self.waiting.push(Reverse(waiting));
            }
        }
    }

    /// Completes when one arrives; never while there is none.
    async fn next(&self) {
        match self.waiting.peek() {
            Some(Reverse(first)) => tokio::time::sleep_until(first.due).await,
            None => std::future::pending().await,
        }
    }

    async fn deliver(&mut self) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|Reverse(first)| first.due <= now)
            && let Some(Reverse(first)) = self.waiting.pop()
        {
            self.bytes -= first.bytes.len();
            deliver(&first.bytes, &first.socket, first.to).await;
        }
    }
}

/// Waits while the kernel's buffer is full. A target that is gone shows itself by its silence.
async fn deliver(datagram: &[u8], socket: &UdpSocket, to: Option<SocketAddr>) {
    let _ = match to {
        Some(to) => socket.send_to(datagram, to).await,
        None => socket.send(datagram).await,
    };
}

struct Waiting {
    due: Instant,
    /// Of those that are due together, the first sent arrives first.
    number: u64,
    bytes: Vec<u8>,
    socket: Arc<UdpSocket>,
    to: Option<SocketAddr>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}
