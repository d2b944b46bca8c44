//! Transfers whose network fails beneath them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ds_proto::v1::Direction;
use ds_transfer::Progress;
use ds_zfs::SnapshotGuid;
use tokio_util::sync::CancellationToken;

use crate::{
    path::Path,
    support::{MIB, World, noise},
};

/// Zfs-fuse cannot go on with a receive that broke off: all of it is received again, but little of it travels.
#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_before_a_push_was_given_up_does_not_travel_again() {
    let mut world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, guid) = runner.work(first, &[("data", &noise(96 * MIB))]).await;
    let path = Path::to(world.address).await;
    let store = world.store.peer().node;
    let (volume, snapshot, never) = (what.volume, what.snapshot, CancellationToken::new());
    let (arrived, arriving) = (CancellationToken::new(), CancellationToken::new());
    let note = {
        let arrived = arrived.clone();
        move |progress: Progress| {
            if progress.bytes > 64 * MIB {
                arrived.cancel();
            }
        }
    };
    let link = runner.endpoint.connect(path.address, store).await.unwrap();
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    tokio::select! {
        pushed = ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, note, &arriving) => {
            panic!("it should have been dropped: {pushed:?}")
        }
        () = arrived.cancelled() => {}
    }
    drop(link);
    // So that it is nobody's memory, but the disk's.
    world.stop_store().await;
    world.start_store().await;

    let path = Path::slow_to(world.address, 40 * MIB).await;
    let link = runner.endpoint.connect(path.address, store).await.unwrap();
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    let receipt = ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, |_| {}, &never);
    let receipt = receipt.await.unwrap();
    let (_, receipt) = ds_transfer::receipt::verify(world.ca.certificate_pem(), &receipt).unwrap();
    assert_eq!(receipt.guid, guid.0);
    // A window's worth may be on its way before the store has said what it has.
    assert!(path.passed() < 80 * MIB, "{} bytes passed again", path.passed());
    assert_eq!(std::fs::read_dir(world.pool.folder().join("state/incoming")).unwrap().count(), 0);
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
