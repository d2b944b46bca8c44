//! What transfers leave on a pool, and who takes it away.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ds_proto::v1::Direction;
use ds_transfer::Progress;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{
        Line, cancelled, grown_at_the_runner, grown_at_the_store, on_openzfs, property_of, pull_again,
    },
    support::{Runner, What},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_part_waits_for_a_day() {
    if !on_openzfs("a restarted store keeps what is half received, and drops it when a day has passed") {
        return;
    }
    let (mut world, runner, what, _) = grown_at_the_runner().await;
    cancelled(&world, &runner, Direction::Push, what).await;
    let stored = world.stored().await;
    let claim = world.pool.folder().join("state/incoming").join(format!(
        "{}-{}",
        what.volume.to_hex(),
        what.snapshot.to_hex()
    ));
    world.stop_store().await;
    world.start_store().await;
    assert!(claim.exists() && stored.resumable(what.volume, what.snapshot).await.unwrap().is_some());

    // One that nobody has claimed gets its time from now on.
    world.stop_store().await;
    fs::remove_file(&claim).unwrap();
    world.start_store().await;
    assert!(claim.exists() && stored.resumable(what.volume, what.snapshot).await.unwrap().is_some());

    world.stop_store().await;
    let past = SystemTime::now() - Duration::from_hours(25);
    fs::File::options().write(true).open(&claim).unwrap().set_modified(past).unwrap();
    world.start_store().await;
    assert_eq!(stored.resumable(what.volume, what.snapshot).await.unwrap(), None);
    assert!(!claim.exists());
    world.push(&runner, what).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_sent_is_held() {
    if !on_openzfs(
        "snapshot and base are held while they are sent, also by a store, and let go of after any end",
    ) {
        return;
    }
    let (mut world, runner, what, _) = grown_at_the_store().await;
    let main = Line::of(&world.pool, "store", what);
    let holds = move || {
        [what.snapshot, what.base.unwrap()].map(|snapshot| property_of(&main.at(snapshot), "userrefs"))
    };
    let (link, during) = (runner.link(&world).await, Arc::new(std::sync::Mutex::new(None)));
    let note = {
        let (during, holds) = (Arc::clone(&during), holds.clone());
        move |progress: Progress| {
            if progress.bytes > 0 {
                during.lock().unwrap().get_or_insert_with(&holds);
            }
        }
    };
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Pull, what));
    let Runner { volumes, .. } = &runner;
    let never = CancellationToken::new();
    ds_transfer::pull(&link, volumes, ticket, what.volume, what.snapshot, note, &never).await.unwrap();
    assert_eq!(during.lock().unwrap().clone().unwrap(), ["1", "1"]);
    world.stop_store().await;
    assert_eq!(holds(), ["0", "0"]);

    // What a process that died left.
    let stored = world.stored().await;
    stored.hold(what.volume, what.snapshot, "transfer.0123").await.unwrap();
    stored.hold(what.volume, what.snapshot, "sync.0123").await.unwrap();
    world.start_store().await;
    assert_eq!(holds(), ["1", "0"], "another owner keeps what it holds");
    stored.release_all("sync.0123").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_push_lets_go_of_its_task() {
    if !on_openzfs("a push that is dropped in the middle does not keep its task's clone from being dropped") {
        return;
    }
    let (world, runner, what, _) = grown_at_the_runner().await;
    let begun = CancellationToken::new();
    let beginning = begun.clone();
    let note = move |progress: Progress| {
        if progress.bytes > 0 {
            beginning.cancel();
        }
    };
    let link = runner.link(&world).await;
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    let never = CancellationToken::new();
    let Runner { volumes, .. } = &runner;
    tokio::select! {
        result = ds_transfer::push(&link, volumes, ticket, what.volume, what.snapshot, note, &never) => {
            panic!("it should have been dropped: {result:?}")
        }
        () = begun.cancelled() => {}
    }
    volumes.drop_volume(what.volume).await.unwrap();
    assert!(!runner.pool.list().iter().any(|name| name.contains(&what.volume.to_hex())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_dropped_for_who_needs_the_room() {
    if !on_openzfs("what is half received goes with its volume, and can be pulled again") {
        return;
    }
    let (world, _first, what, _) = grown_at_the_store().await;
    let runner = world.runner().await;
    let what = What { base: None, ..what };
    cancelled(&world, &runner, Direction::Pull, what).await;
    assert_eq!(runner.volumes.volumes().await.unwrap(), [what.volume]);
    runner.volumes.drop_volume(what.volume).await.unwrap();
    assert!(!runner.pool.list().iter().any(|name| name.contains(&what.volume.to_hex())));
    pull_again(&world, &runner, what).await;
}
