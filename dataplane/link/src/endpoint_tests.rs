use bytes::Bytes;
use ds_proto::v1::{Abort, StreamOpen};
use uuid::Uuid;

use super::*;
use crate::{Ca, Role};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn identity(ca: &Ca, role: Role, id: u128) -> Identity {
    ca.issue(role, NodeId(Uuid::from_u128(id))).unwrap()
}

async fn accept(endpoint: &Endpoint) -> Result<Link> {
    endpoint.accept().await.expect("the endpoint is open").link().await
}

/// A runner's link to a store and the store's end of it; the endpoints must stay alive with them.
async fn pair() -> (Link, Link, [Endpoint; 2]) {
    let ca = Ca::create().unwrap();
    let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
    let runner = Endpoint::client(&identity(&ca, Role::Runner, 2)).unwrap();
    let address = store.local_addr().unwrap();
    let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(1))), accept(&store));
    (here.unwrap(), there.unwrap(), [runner, store])
}

#[tokio::test]
async fn both_ends_know_each_other_and_exchange_messages() {
    let (runner, store, _endpoints) = pair().await;
    assert_eq!(runner.peer(), Peer { role: Role::Store, node: NodeId(Uuid::from_u128(1)) });
    assert_eq!(store.peer(), Peer { role: Role::Runner, node: NodeId(Uuid::from_u128(2)) });

    let mut here = runner.open(&StreamOpen::default()).await.unwrap();
    let mut there = store.accept().await.unwrap();
    assert_eq!(there.recv.recv().await.unwrap(), Some(StreamOpen::default()));
    let message = Abort { code: 3, message: "x".repeat(500_000) };
    here.send.send(&message).await.unwrap();
    here.send.send_bytes(Bytes::from_static(b"raw")).await.unwrap();
    here.send.finish().unwrap();
    assert_eq!(there.recv.recv().await.unwrap(), Some(message));
    assert_eq!(there.recv.read_chunk().await.unwrap().unwrap(), "raw");
    assert!(there.recv.read_chunk().await.unwrap().is_none());
    here.send.delivered().await.unwrap();
}

#[tokio::test]
async fn a_sender_that_is_dropped_does_not_look_finished() {
    let (runner, store, _endpoints) = pair().await;
    let here = runner.open(&StreamOpen::default()).await.unwrap();
    let mut there = store.accept().await.unwrap();
    assert!(there.recv.recv::<StreamOpen>().await.unwrap().is_some());
    drop(here);
    assert!(there.recv.recv::<Abort>().await.unwrap_err().is_retryable());
}

#[tokio::test]
async fn chunks_are_sorted_by_transfer_and_strays_refused() {
    let (runner, store, _endpoints) = pair().await;
    let (mut ones, mut twos) = (store.chunks([1; 16]), store.chunks([2; 16]));
    for transfer in [2u8, 9, 1] {
        let mut chunk = runner.open_chunk().await.unwrap();
        chunk.write(Bytes::from(vec![transfer; 20])).await.unwrap();
        chunk.write(Bytes::from(vec![transfer; 100_000])).await.unwrap();
        let _ = chunk.finish();
    }
    for (chunks, transfer) in [(&mut ones, 1), (&mut twos, 2)] {
        let mut chunk = chunks.next().await.unwrap();
        let mut read = 0;
        while let Some(bytes) = chunk.read(10_000).await.unwrap() {
            assert!(bytes.iter().all(|b| *b == transfer));
            read += bytes.len();
        }
        assert_eq!(read, 100_000);
    }
    drop(twos);
    runner.close("enough");
    assert!(ones.next().await.is_none());
    assert!(store.chunks([3; 16]).next().await.is_none());
    assert!(store.closed().await.to_string().contains("enough"));
}

#[tokio::test]
async fn a_peer_that_keeps_sending_strays_is_cut_off() {
    let (runner, store, _endpoints) = pair().await;
    let flood = async {
        loop {
            let mut chunk = runner.open_chunk().await?;
            chunk.write(Bytes::from_static(&[7; 20])).await?;
            chunk.finish()?;
        }
        #[expect(unreachable_code, reason = "names the block's type")]
        Ok::<(), Error>(())
    };
    let _ = flood.await.unwrap_err();
    assert!(store.is_closed());
    assert!(runner.closed().await.to_string().contains("nobody asked for"));
}

#[tokio::test]
async fn nodes_of_another_hub_and_other_nodes_than_expected_are_refused() {
    let (ca, other_ca) = (Ca::create().unwrap(), Ca::create().unwrap());
    let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
    let address = store.local_addr().unwrap();

    // A stranger's certificate: we refuse the store's, or it refuses ours.
    let stranger = Endpoint::client(&identity(&other_ca, Role::Runner, 2)).unwrap();
    let (here, there) = tokio::join!(stranger.connect(address, NodeId(Uuid::from_u128(1))), accept(&store));
    assert!(matches!(here, Err(Error::Refused { .. })));
    assert!(matches!(there, Err(Error::Refused { .. })));

    let runner = Endpoint::client(&identity(&ca, Role::Runner, 2)).unwrap();
    let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(5))), accept(&store));
    assert!(matches!(here, Err(Error::Refused { .. })));
    assert!(there.is_err());
}

#[tokio::test]
async fn a_stranger_that_believes_the_store_is_refused_by_it() {
    let (ca, other_ca) = (Ca::create().unwrap(), Ca::create().unwrap());
    let store = Endpoint::bind(LOOPBACK, &identity(&ca, Role::Store, 1)).unwrap();
    let foreign = identity(&other_ca, Role::Runner, 2);
    let posing = foreign.believing(ca.certificate_pem());
    let runner = Endpoint::client(&posing).unwrap();
    let address = store.local_addr().unwrap();
    let (here, there) = tokio::join!(runner.connect(address, NodeId(Uuid::from_u128(1))), accept(&store));
    assert!(matches!(there, Err(Error::Refused { .. })));
    let error = match here {
        Err(error) => error,
        Ok(link) => link.closed().await,
    };
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_closed_endpoint_accepts_nobody() {
    let (runner, store, [_, endpoint]) = pair().await;
    endpoint.close("stopping");
    assert!(endpoint.accept().await.is_none());
    assert!(runner.closed().await.to_string().contains("stopping"));
    assert!(runner.open(&StreamOpen::default()).await.unwrap_err().is_retryable());
    assert!(store.is_closed());
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
