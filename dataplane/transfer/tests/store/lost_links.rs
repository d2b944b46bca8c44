//! Transfers whose network fails beneath them.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ds_proto::v1::Direction;
use ds_transfer::Progress;
use ds_zfs::SnapshotGuid;
use tokio::{net::UdpSocket, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::support::{MIB, World, noise};

/// Passes datagrams on between nodes, each flow from a port of its own, and can break all flows that there are: like a
/// NAT that forgets.
struct Path {
    address: SocketAddr,
    flows: Arc<Mutex<HashMap<SocketAddr, Flow>>>,
    _passing: AbortOnDropHandle<()>,
}

struct Flow {
    out: Arc<UdpSocket>,
    broken: Arc<AtomicBool>,
    _back: AbortOnDropHandle<()>,
}

impl Path {
    async fn to(store: SocketAddr) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = socket.local_addr().unwrap();
        let flows = Arc::default();
        let passing = tokio::spawn(pass(socket, store, Arc::clone(&flows)));
        Self { address, flows, _passing: AbortOnDropHandle::new(passing) }
    }

    fn break_flows(&self) {
        self.flows.lock().unwrap().values().for_each(|flow| flow.broken.store(true, Ordering::Relaxed));
    }

    fn flows(&self) -> usize {
        self.flows.lock().unwrap().len()
    }
}

async fn pass(socket: Arc<UdpSocket>, store: SocketAddr, flows: Arc<Mutex<HashMap<SocketAddr, Flow>>>) {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_push_and_a_pull_survive_the_loss_of_all_their_links() {
    let world = World::start().await;
    let (runner, other) = (world.runner().await, world.runner().await);
    let first = runner.shared_volume(&world).await;
    world.pull(&other, first).await.unwrap();
    let content = noise(96 * MIB);
    let (what, guid) = runner.work(first, &[("data", &content)]).await;

    let path = Arc::new(Path::to(world.address).await);
    let store = world.store.peer().node;
    let broke = Arc::new(AtomicBool::new(false));
    let break_once = {
        let (path, broke) = (Arc::clone(&path), Arc::clone(&broke));
        move |progress: Progress| {
            if progress.bytes > 0 && !broke.swap(true, Ordering::Relaxed) {
                path.break_flows();
            }
        }
    };
    let never = CancellationToken::new();
    let link = runner.endpoint.connect(path.address, store).await.unwrap();
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    let (volume, snapshot) = (what.volume, what.snapshot);
    ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, break_once.clone(), &never)
        .await
        .unwrap();
    assert!(broke.load(Ordering::Relaxed) && path.flows() > 1, "it came back over another flow");

    broke.store(false, Ordering::Relaxed);
    let link = other.endpoint.connect(path.address, store).await.unwrap();
    let ticket = world.signer.sign(&world.ticket(&other, Direction::Pull, what));
    let receipt =
        ds_transfer::pull(&link, &other.volumes, ticket, volume, snapshot, break_once, &never).await.unwrap();
    assert_eq!(SnapshotGuid(receipt.guid), guid);
    assert!(broke.load(Ordering::Relaxed));
}
