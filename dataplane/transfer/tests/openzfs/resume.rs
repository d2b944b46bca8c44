//! Transfers that break off and go on in another process.

use std::{fs, sync::Arc};

use ds_proto::v1::Direction;
use ds_transfer::{Error, Progress};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{
        Line, PART, PULLED, PUSHED, assert_resumed, cancelled, grown_at_the_runner, grown_at_the_store,
        on_openzfs, pull_again, push_again,
    },
    other_process::{Other, Task},
    support::{Runner, What, World},
};

/// That the runner has `content`, and nothing half received.
async fn arrived_at(runner: &Runner, what: What, content: &[u8]) {
    let folder = runner.volumes.reading_clone(what.volume, what.snapshot).await.unwrap();
    assert!(fs::read(folder.join("data")).unwrap() == content, "the file is another");
    runner.volumes.drop_reading_clone(what.snapshot).await.unwrap();
    assert_eq!(runner.volumes.partials().await.unwrap(), []);
}

async fn stored(world: &World, what: What, content: &[u8]) {
    let stored = world.stored().await;
    let folder = stored.reading_clone(what.volume, what.snapshot).await.unwrap();
    assert!(fs::read(folder.join("data")).unwrap() == content, "the file is another");
    stored.drop_reading_clone(what.snapshot).await.unwrap();
    assert_eq!(stored.partials().await.unwrap(), []);
    // The store settles its claim after it has said so.
    let under_way = world.pool.folder().join("state/incoming");
    while fs::read_dir(&under_way).unwrap().next().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_goes_on() {
    if !on_openzfs("a pull that is cancelled, and then pulled again") {
        return;
    }
    let (world, runner, what, content) = grown_at_the_store().await;
    let written = cancelled(&world, &runner, Direction::Pull, what).await;
    let token = runner.volumes.resumable(what.volume, what.snapshot).await.unwrap().unwrap();
    assert!(token.bytes > 0 && token.mode.to_string() == "ce", "{token:?}");
    assert_resumed(&pull_again(&world, &runner, what).await, PULLED, written);
    arrived_at(&runner, what, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_push_goes_on() {
    if !on_openzfs("a push that is cancelled, and then pushed again") {
        return;
    }
    let (world, runner, what, content) = grown_at_the_runner().await;
    let written = cancelled(&world, &runner, Direction::Push, what).await;
    assert_resumed(&push_again(&world, &runner, what).await, PUSHED, written);
    stored(&world, what, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_puller_is_killed() {
    if !on_openzfs("kill -9 of a process that pulls; another goes on") {
        return;
    }
    let (world, runner, what, content) = grown_at_the_store().await;
    let mut other = Other::start(&Task::transfer(&world, &runner, Direction::Pull, what));
    let written = other.kill_when_it_waits();
    assert_resumed(&pull_again(&world, &runner, what).await, PULLED, written);
    arrived_at(&runner, what, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pusher_is_killed() {
    if !on_openzfs(
        "kill -9 of a process that pushes; another goes on, once the store has seen that it is gone",
    ) {
        return;
    }
    let (world, runner, what, content) = grown_at_the_runner().await;
    let mut other = Other::start(&Task::transfer(&world, &runner, Direction::Push, what));
    let written = other.kill_when_it_waits();
    assert_resumed(&push_again(&world, &runner, what).await, PUSHED, written);
    stored(&world, what, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_killed() {
    if !on_openzfs("kill -9 of a store that is pushed to; the next one goes on") {
        return;
    }
    let (mut world, runner, what, content) = grown_at_the_runner().await;
    world.stop_store().await;
    let mut other = Other::start(&Task::store(&world));
    world.address = other.address();
    let link = runner.link(&world).await;
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    let cancel = CancellationToken::new();
    let other = Arc::new(std::sync::Mutex::new((other, 0)));
    let (victim, cancels) = (Arc::clone(&other), cancel.clone());
    let note = move |progress: Progress| {
        let mut other = victim.lock().unwrap();
        if progress.bytes >= PART && other.1 == 0 {
            other.0.kill();
            other.1 = progress.bytes;
            cancels.cancel();
        }
    };
    let Runner { volumes, .. } = &runner;
    let push = ds_transfer::push(&link, volumes, ticket, what.volume, what.snapshot, note, &cancel);
    assert!(matches!(push.await, Err(Error::Cancelled)));
    let written = other.lock().unwrap().1;
    world.start_store().await;
    assert_resumed(&push_again(&world, &runner, what).await, PUSHED, written);
    stored(&world, what, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_goes_on_as_well() {
    if !on_openzfs("a first pull that is cancelled, and goes on where nothing else is") {
        return;
    }
    let (world, _first, what, content) = grown_at_the_store().await;
    let runner = world.runner().await;
    let what = What { base: None, ..what };
    let written = cancelled(&world, &runner, Direction::Pull, what).await;
    assert_eq!(runner.volumes.snapshots(what.volume).await.unwrap(), []);
    assert_resumed(&pull_again(&world, &runner, what).await, PULLED, written);
    arrived_at(&runner, what, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_stream_is_dropped() {
    if !on_openzfs(
        "a part whose base the sender does not choose any more is dropped, and the transfer begins anew",
    ) {
        return;
    }
    let (world, runner, what, content) = grown_at_the_store().await;
    cancelled(&world, &runner, Direction::Pull, what).await;
    // The base goes at the sender, with its bookmark.
    let stored = world.stored().await;
    stored.prune_bookmarks(what.volume, &[]).await.unwrap();
    let line = Line::of(&world.pool, "store", what);
    line.destroy(what.base.unwrap()).await;
    let receipt = pull_again(&world, &runner, what).await;
    assert!(receipt.stream_bytes >= PULLED, "{}", receipt.stream_bytes);
    arrived_at(&runner, what, &content).await;
}
