use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use ds_proto::v1::{Abort, StreamOpen};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::*;
use crate::{Ca, Control, Driver, Role, quic::IDLE_TIMEOUT};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn identity(ca: &Ca, role: Role, id: u128) -> Identity {
    ca.issue(role, NodeId(Uuid::from_u128(id))).unwrap()
}

async fn accept(endpoint: &Endpoint) -> Result<Link> {
    endpoint.accept().await.expect("the endpoint is open").link().await
}

/// A runner's link to a store and the store's end of it; the endpoints must stay alive with them.
async fn pair(transport: Transport) -> (Link, Link, [Endpoint; 2]) {
    let ca = Ca::create().unwrap();
    let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
    let runner = Endpoint::client(&identity(&ca, Role::Runner, 2)).unwrap().over(Transports::Only(transport));
    let address = store.local_addr().unwrap();
    let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(1))), accept(&store));
    (here.unwrap(), there.unwrap(), [runner, store])
}

/// A stream that both ends keep alive.
async fn kept_alive(here: &Link, there: &Link) -> (Control, Control) {
    let mut opened = here.open(&StreamOpen::default()).await.unwrap();
    here.keep_alive(&mut opened);
    let mut accepted = there.accept().await.unwrap();
    accepted.recv.recv::<StreamOpen>().await.unwrap();
    there.keep_alive(&mut accepted);
    (opened, accepted)
}

/// Carries TCP connections on, until it swallows all that comes.
async fn forward(front: tokio::net::TcpListener, to: SocketAddr, swallows: Arc<AtomicBool>) {
    let pour = async |mut from: Box<dyn AsyncRead + Send + Unpin>,
                      mut to: Box<dyn AsyncWrite + Send + Unpin>| {
        let mut piece = vec![0; 4 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            if !swallows.load(Ordering::Relaxed) && to.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    let (knock, _) = front.accept().await.unwrap();
    let ahead = tokio::net::TcpStream::connect(to).await.unwrap();
    let ((asked, answer), (answered, ask)) = (knock.into_split(), ahead.into_split());
    tokio::join!(pour(Box::new(asked), Box::new(ask)), pour(Box::new(answered), Box::new(answer)));
}

/// Both ends agree that the link is a lane.
async fn agree_on_lane(here: &Link, there: &Link) {
    let mut opened = here.open(&StreamOpen::default()).await.unwrap();
    let mut accepted = there.accept().await.unwrap();
    accepted.recv.recv::<StreamOpen>().await.unwrap();
    accepted.send.send(&Abort::default()).await.unwrap();
    there.become_lane(accepted, Driver::Apart).await.unwrap();
    opened.recv.recv::<Abort>().await.unwrap();
    here.become_lane(opened, Driver::Here).await.unwrap();
    assert!(here.is_lane() && there.is_lane());
}

const BOTH: [Transport; 2] = [Transport::Quic, Transport::Tcp];

#[tokio::test]
async fn both_ends_know_each_other_and_exchange_messages() {
    for transport in BOTH {
        let (runner, store, _endpoints) = pair(transport).await;
        assert_eq!(runner.peer(), Peer { role: Role::Store, node: NodeId(Uuid::from_u128(1)) });
        assert_eq!(store.peer(), Peer { role: Role::Runner, node: NodeId(Uuid::from_u128(2)) });
        assert_eq!((runner.transport(), store.transport()), (transport, transport));

        let mut here = runner.open(&StreamOpen::default()).await.unwrap();
        let mut there = store.accept().await.unwrap();
        assert_eq!(there.recv.recv().await.unwrap(), Some(StreamOpen::default()));
        let message = Abort { code: 3, message: "x".repeat(500_000) };
        here.send.send(&message).await.unwrap();
        here.send.send_bytes(Bytes::from_static(b"raw")).await.unwrap();
        here.send.finish().await.unwrap();
        assert_eq!(there.recv.recv().await.unwrap(), Some(message));
        assert_eq!(there.recv.read_chunk().await.unwrap().unwrap(), "raw");
        assert!(there.recv.read_chunk().await.unwrap().is_none());
        here.send.delivered().await.unwrap();
        there.send.send(&Abort::default()).await.unwrap();
        assert_eq!(here.recv.recv().await.unwrap(), Some(Abort::default()), "half of it is still open");
    }
}

#[tokio::test]
async fn a_sender_that_is_dropped_does_not_look_finished() {
    for transport in BOTH {
        let (runner, store, _endpoints) = pair(transport).await;
        let here = runner.open(&StreamOpen::default()).await.unwrap();
        let mut there = store.accept().await.unwrap();
        assert!(there.recv.recv::<StreamOpen>().await.unwrap().is_some());
        drop(here);
        assert!(there.recv.recv::<Abort>().await.unwrap_err().is_retryable());
    }
}

#[tokio::test]
async fn each_of_several_streams_is_accepted() {
    for transport in BOTH {
        let (runner, store, [_runner, endpoint]) = pair(transport).await;
        let mut first = runner.open(&StreamOpen::default()).await.unwrap();
        let mut there = store.accept().await.unwrap();
        // Over TCP it comes on a connection of its own.
        let accepted = async {
            match transport {
                Transport::Quic => (store.accept().await.unwrap(), None),
                Transport::Tcp => {
                    let link = accept(&endpoint).await.unwrap();
                    (link.accept().await.unwrap(), Some(link))
                }
            }
        };
        let opening = StreamOpen::default();
        let (second, (mut there_too, _link)) = tokio::join!(runner.open(&opening), accepted);
        let mut second = second.unwrap();
        for (here, there) in [(&mut first, &mut there), (&mut second, &mut there_too)] {
            there.recv.recv::<StreamOpen>().await.unwrap().unwrap();
            there.send.send(&Abort::default()).await.unwrap();
            assert_eq!(here.recv.recv().await.unwrap(), Some(Abort::default()));
        }
    }
}

#[tokio::test]
async fn chunks_are_sorted_by_transfer_and_strays_refused() {
    for transport in BOTH {
        let (runner, store, _endpoints) = pair(transport).await;
        agree_on_lane(&runner, &store).await;
        let (mut ones, mut twos) = (store.chunks([1; 16]), store.chunks([2; 16]));
        for transfer in [2u8, 9, 1] {
            let payload = Bytes::from(vec![transfer; 100_000]);
            runner.send_chunk(&[transfer; 24], payload).await.unwrap();
        }
        for (chunks, transfer) in [(&mut twos, 2), (&mut ones, 1)] {
            let mut chunk = chunks.next().await.unwrap();
            let (mut rest, mut payload) = ([0; 4], vec![0; 100_000]);
            chunk.read_header(&mut rest).await.unwrap();
            chunk.read_payload(&mut payload).await.unwrap();
            assert!(rest.iter().chain(&payload).all(|b| *b == transfer));
        }
        drop(twos);
        runner.close("enough");
        assert!(ones.next().await.is_none());
        assert!(store.chunks([3; 16]).next().await.is_none());
        let closed = store.closed().await.to_string();
        assert!(transport == Transport::Tcp || closed.contains("enough"), "{closed}");
    }
}

#[tokio::test]
async fn a_chunk_of_another_length_is_an_error_and_one_that_nobody_reads_is_passed_over() {
    for transport in BOTH {
        let (runner, store, _endpoints) = pair(transport).await;
        agree_on_lane(&runner, &store).await;
        let mut chunks = store.chunks([1; 16]);
        for length in [40_000, 30_000, 20_000, 10_000] {
            runner.send_chunk(&[1; 20], Bytes::from(vec![5; length])).await.unwrap();
        }
        let mut unread = 4;
        let mut payload = vec![0; 20_000];
        while unread > 0 {
            let mut chunk = chunks.next().await.unwrap();
            unread -= 1;
            // QUIC's streams may come in any order.
            match chunk.read_payload(&mut payload).await {
                Ok(()) => assert!(payload.iter().all(|b| *b == 5)),
                Err(error) => assert!(matches!(error, Error::Frame(_)), "{error}"),
            }
        }
        runner.send_chunk(&[1; 20], Bytes::from(vec![6; 20_000])).await.unwrap();
        chunks.next().await.unwrap().read_payload(&mut payload).await.unwrap();
        assert!(payload.iter().all(|b| *b == 6));
    }
}

#[tokio::test]
async fn a_peer_that_keeps_sending_strays_is_cut_off() {
    for transport in BOTH {
        let (runner, store, _endpoints) = pair(transport).await;
        agree_on_lane(&runner, &store).await;
        while !runner.is_closed() {
            // A single one may be refused on its way.
            let _ = runner.send_chunk(&[7; 20], Bytes::new()).await;
            tokio::task::yield_now().await;
        }
        let closed = runner.closed().await.to_string();
        assert!(store.is_closed());
        assert!(transport == Transport::Tcp || closed.contains("nobody asked for"), "{closed}");
    }
}

#[tokio::test]
async fn chunks_go_both_ways_over_one_lane() {
    let (runner, store, _endpoints) = pair(Transport::Tcp).await;
    agree_on_lane(&runner, &store).await;
    let (mut there, mut here) = (store.chunks([1; 16]), runner.chunks([1; 16]));
    let payload = Bytes::from(vec![9; 3 << 20]);
    let (one, two, sent, sent_back) = tokio::join!(
        async {
            let mut payload = vec![0; 3 << 20];
            there.next().await.unwrap().read_payload(&mut payload).await.unwrap();
            payload
        },
        async {
            let mut payload = vec![0; 3 << 20];
            here.next().await.unwrap().read_payload(&mut payload).await.unwrap();
            payload
        },
        runner.send_chunk(&[1; 20], payload.clone()),
        store.send_chunk(&[1; 20], payload.clone()),
    );
    sent.and(sent_back).unwrap();
    assert!(one == payload && two == payload);
}

/// A link over a path that swallows what comes, once it is told.
async fn pair_over(endpoints: &[Endpoint; 2], swallows: &Arc<AtomicBool>) -> (Link, Link, impl Sized) {
    let [runner, store] = endpoints;
    let front = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let address = front.local_addr().unwrap();
    let forwarding = forward(front, store.local_addr().unwrap(), Arc::clone(swallows));
    let forwarding = AbortOnDropHandle::new(tokio::spawn(forwarding));
    let linking = runner.connect(address, NodeId(Uuid::from_u128(1)));
    let (here, there) = tokio::join!(linking, accept(store));
    (here.unwrap(), there.unwrap(), forwarding)
}

/// So much longer than [`IDLE_TIMEOUT`] is long enough.
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn who_says_nothing_lives_and_who_is_not_heard_is_lost() {
    let (runner, store, endpoints) = pair(Transport::Tcp).await;
    let (mut here, mut there) = kept_alive(&runner, &store).await;
    let swallows = Arc::default();
    let (far_runner, far_store, _path) = pair_over(&endpoints, &swallows).await;
    let (mut swallowed, mut other) = kept_alive(&far_runner, &far_store).await;
    other.send.send(&Abort::default()).await.unwrap();
    assert!(swallowed.recv.recv::<Abort>().await.unwrap().is_some());

    swallows.store(true, Ordering::Relaxed);
    // The kernels hear all that they say acknowledged.
    let (one, two, heard) = tokio::join!(
        swallowed.recv.recv::<Abort>(),
        other.recv.recv::<Abort>(),
        timeout(IDLE_TIMEOUT + SLACK, there.recv.recv::<Abort>()),
    );
    for lost in [one, two] {
        assert!(matches!(lost, Err(Error::TimedOut { .. })), "{lost:?}");
    }
    assert!(far_store.is_closed());
    assert!(heard.is_err(), "{heard:?}");
    here.send.send(&Abort::default()).await.unwrap();
    assert!(there.recv.recv::<Abort>().await.unwrap().is_some());
    // Nobody read here for as long.
    there.send.send(&Abort::default()).await.unwrap();
    assert!(here.recv.recv::<Abort>().await.unwrap().is_some());
    here.send.finish().await.unwrap();
    assert!(there.recv.recv::<Abort>().await.unwrap().is_none());
}

#[tokio::test]
async fn a_lane_waits_for_whoever_reads_late_and_is_lost_unheard() {
    const CHUNKS: usize = 32;
    let (runner, store, endpoints) = pair(Transport::Tcp).await;
    agree_on_lane(&runner, &store).await;
    let swallows = Arc::default();
    let (far_runner, far_store, _path) = pair_over(&endpoints, &swallows).await;
    agree_on_lane(&far_runner, &far_store).await;

    swallows.store(true, Ordering::Relaxed);
    let payload = Bytes::from(vec![5; 1 << 20]);
    let sending = async {
        for _ in 0..CHUNKS {
            runner.send_chunk(&[1; 20], payload.clone()).await.unwrap();
        }
    };
    let mut chunks = store.chunks([1; 16]);
    let receiving = async {
        // More than the kernels' buffers take is under way.
        let first = chunks.next().await.unwrap();
        tokio::time::sleep(IDLE_TIMEOUT + SLACK).await;
        assert!(far_runner.is_closed() && far_store.is_closed());
        drop(first);
        for _ in 1..CHUNKS {
            let mut into = vec![0; payload.len()];
            chunks.next().await.unwrap().read_payload(&mut into).await.unwrap();
        }
    };
    tokio::join!(sending, receiving);
    assert!(!runner.is_closed() && !store.is_closed());
}

#[tokio::test]
async fn where_udp_is_not_answered_links_are_over_tcp() {
    let ca = Ca::create().unwrap();
    let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
    // A port that has TCP's half only: what comes to its UDP half is read by nobody.
    let swallowing = UdpSocket::bind(LOOPBACK).unwrap();
    let front = tokio::net::TcpListener::bind(swallowing.local_addr().unwrap()).await.unwrap();
    let behind = store.local_addr().unwrap();
    let forwarding = async {
        let (mut knock, _) = front.accept().await.unwrap();
        let mut on = tokio::net::TcpStream::connect(behind).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut knock, &mut on).await;
        std::future::pending::<()>().await;
    };
    let runner = Endpoint::client(&identity(&ca, Role::Runner, 2)).unwrap();
    let address = swallowing.local_addr().unwrap();
    let linking = async { tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(1))), accept(&store)) };
    let (here, there) = tokio::select! {
        linked = linking => linked,
        () = forwarding => unreachable!("it goes on"),
    };
    assert_eq!(here.unwrap().transport(), Transport::Tcp);
    assert_eq!(there.unwrap().transport(), Transport::Tcp);
}

#[tokio::test]
async fn nodes_of_another_hub_and_other_nodes_than_expected_are_refused() {
    for transport in BOTH {
        let (ca, other_ca) = (Ca::create().unwrap(), Ca::create().unwrap());
        let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
        let address = store.local_addr().unwrap();

        // A stranger's certificate: we refuse the store's, or it refuses ours.
        let stranger = Endpoint::client(&identity(&other_ca, Role::Runner, 2)).unwrap();
        let stranger = stranger.over(Transports::Only(transport));
        let (here, there) =
            tokio::join!(stranger.connect(address, NodeId(Uuid::from_u128(1))), accept(&store));
        assert!(matches!(here, Err(Error::Refused { .. })));
        assert!(matches!(there, Err(Error::Refused { .. })));

        let runner = Endpoint::client(&identity(&ca, Role::Runner, 2)).unwrap();
        let runner = runner.over(Transports::Only(transport));
        let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(5))), accept(&store));
        assert!(matches!(here, Err(Error::Refused { .. })));
        assert!(there.is_err());
    }
}

#[tokio::test]
async fn a_stranger_that_believes_the_store_is_refused_by_it() {
    for transport in BOTH {
        let (ca, other_ca) = (Ca::create().unwrap(), Ca::create().unwrap());
        let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
        let foreign = identity(&other_ca, Role::Runner, 2);
        let posing = foreign.believing(ca.certificate_pem());
        let runner = Endpoint::client(&posing).unwrap().over(Transports::Only(transport));
        let address = store.local_addr().unwrap();
        let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(1))), accept(&store));
        assert!(matches!(there, Err(Error::Refused { .. })));
        let error = match here {
            Err(error) => error,
            Ok(link) => first_error(&link).await,
        };
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}

async fn first_error(link: &Link) -> Error {
    match link.open(&StreamOpen::default()).await {
        Err(error) => error,
        Ok(mut control) => control.recv.recv::<Abort>().await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_closed_endpoint_accepts_nobody() {
    for transport in BOTH {
        let (runner, store, [_, endpoint]) = pair(transport).await;
        let mut here = runner.open(&StreamOpen::default()).await.unwrap();
        endpoint.close("stopping");
        assert!(endpoint.accept().await.is_none());
        if transport == Transport::Quic {
            assert!(runner.closed().await.to_string().contains("stopping"));
            assert!(runner.open(&StreamOpen::default()).await.unwrap_err().is_retryable());
        }
        let _ = store.accept().await.map(drop);
        assert!(here.recv.recv::<Abort>().await.unwrap_err().is_retryable());
        assert!(store.is_closed());
    }
}

#[tokio::test]
async fn a_node_that_has_to_show_its_address_is_linked_all_the_same() {
    let ca = Ca::create().unwrap();
    let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
    let runner = Endpoint::client(&identity(&ca, Role::Runner, 2)).unwrap();
    let address = store.local_addr().unwrap();
    let accepting = async {
        let unknown = store.accept().await.unwrap();
        assert!(!unknown.is_validated());
        unknown.validate();
        let known = store.accept().await.unwrap();
        assert!(known.is_validated());
        known.link().await
    };
    let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(1))), accepting);
    here.unwrap();
    there.unwrap();
}
