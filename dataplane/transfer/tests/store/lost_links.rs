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
