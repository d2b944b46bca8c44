use std::{
    fs,
    sync::{Arc, Mutex},
};

use ds_domain::ids::VolumeId;
use ds_link::Endpoint;
use ds_proto::v1::{Direction, StreamOpen};
use ds_transfer::{Error, ErrorKind, Progress, ticket::TicketError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{MIB, What, World, new_snapshot, no_zfs_process_is_left, noise};

#[tokio::test(flavor = "multi_thread")]
async fn a_tasks_snapshot_goes_to_the_store_and_on_to_another_runner() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let content = noise(9 * MIB);
    let (second, guid) = runner.work(first, &[("model/weights", &content)]).await;

    let (store, receipt) = world.push(&runner, second).await.unwrap();
    assert_eq!(store, world.store.peer().node);
    assert_eq!((receipt.guid, receipt.snapshot), (guid.0, second.snapshot.to_bytes()));
    assert!(receipt.stream_bytes > 9 * MIB && receipt.digest.len() == 16);
    let stored = world.stored().await.find(first.volume, second.snapshot).await.unwrap().unwrap();
    assert_eq!(stored.guid, guid);

    // Again: it is there, and nothing is sent.
    let (_, again) = world.push(&runner, second).await.unwrap();
    assert_eq!((again.guid, again.stream_bytes), (guid.0, 0));

    world.client().advance(first.volume, second.snapshot).await.unwrap();
    let other = world.runner().await;
    let pulled = world.pull(&other, What { base: None, ..second }).await.unwrap();
    assert_eq!(pulled.guid, guid.0);
    assert!(pulled.stream_bytes > 9 * MIB);
    let folder = other.volumes.reading_clone(second.volume, second.snapshot).await.unwrap();
    assert!(fs::read(folder.join("model/weights")).unwrap() == content);
    other.volumes.drop_reading_clone(second.snapshot).await.unwrap();
    assert_eq!(world.pull(&other, second).await.unwrap().stream_bytes, 0);

    // The difference alone comes back to the first runner's line.
    let (third, _) = other.work(second, &[("notes", b"small")]).await;
    let (_, receipt) = world.push(&other, third).await.unwrap();
    assert!(receipt.stream_bytes < MIB);
    let pulled = world.pull(&runner, third).await.unwrap();
    assert!(pulled.stream_bytes > 0 && pulled.stream_bytes < MIB, "{}", pulled.stream_bytes);
    no_zfs_process_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_begins_at_a_runner_is_pushed_whole() {
    let world = World::start().await;
    let runner = world.runner().await;
    let what = What { volume: VolumeId(Uuid::new_v4()), snapshot: new_snapshot(), base: None };
    let guid = runner.volumes.create(what.volume, what.snapshot).await.unwrap();
    let (_, receipt) = world.push(&runner, what).await.unwrap();
    assert_eq!(receipt.guid, guid.0);
    let stored = world.stored().await.find(what.volume, what.snapshot).await.unwrap().unwrap();
    assert!(stored.main);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_counts_real_bytes_up_to_the_end() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(20 * MIB))]).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watched = Arc::clone(&seen);
    let note = move |progress: Progress| watched.lock().unwrap().push(progress.bytes);
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    let (link, cancel) = (runner.link(&world).await, CancellationToken::new());
    let (volume, snapshot) = (what.volume, what.snapshot);
    let receipt = ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, note, &cancel);
    let receipt = receipt.await.unwrap();
    let (_, receipt) = ds_transfer::receipt::verify(world.ca.certificate_pem(), &receipt).unwrap();
    let seen = seen.lock().unwrap();
    // Acknowledgements are cumulative: how many there are is up to the scheduler.
    assert!(seen.len() > 1 && seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&receipt.stream_bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_transfers_share_a_link() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let link = runner.link(&world).await;
    let mut pushes = Vec::new();
    for name in ["a", "b", "c"] {
        let (what, _) = runner.work(first, &[(name, &noise(6 * MIB))]).await;
        let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
        pushes.push(runner.push(&link, ticket, what));
    }
    for receipt in futures_util::future::join_all(pushes).await {
        receipt.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_judged() {
    let world = World::start().await;
    let (runner, other) = (world.runner().await, world.runner().await);
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("file", b"content")]).await;
    let link = runner.link(&world).await;
    let good = world.ticket(&runner, Direction::Push, what);
    let refused = async |ticket| runner.push(&link, ticket, what).await.unwrap_err();

    let mut tampered = world.signer.sign(&good);
    *tampered.payload.last_mut().unwrap() ^= 1;
    let foreign = ds_transfer::ticket::TicketSigner::create().unwrap().sign(&good);
    let mut expired = good.clone();
    expired.expires_ms = good.issued_ms - 1;
    let expired = world.signer.sign(&expired);
    let others = world.signer.sign(&world.ticket(&other, Direction::Push, what));
    for (ticket, words) in
        [(tampered, "signature"), (foreign, "signature"), (expired, "expired"), (others, "presents it")]
    {
        let error = refused(ticket).await;
        assert_eq!(error.kind(), ErrorKind::Ticket, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    // A ticket for something else is not even shown.
    let mut elsewhere = good.clone();
    elsewhere.id = vec![7; 16];
    elsewhere.volume = VolumeId(Uuid::new_v4()).to_bytes();
    let mut backwards = good.clone();
    backwards.direction = Direction::Pull.into();
    let mut older = good.clone();
    older.snapshot = first.snapshot.to_bytes();
    for wrong in [elsewhere, backwards, older] {
        let error = refused(world.signer.sign(&wrong)).await;
        assert_eq!(error.kind(), ErrorKind::Ticket, "{error:?}");
        let Error::Ticket(source) = &error else { panic!("{error}") };
        assert!(matches!(source, TicketError::OtherTransfer { .. }), "{source}");
    }
    let wanted = What { snapshot: new_snapshot(), ..first };
    let error = runner.pull(&link, world.signer.sign(&world.ticket(&runner, Direction::Pull, first)), wanted);
    assert_eq!(error.await.unwrap_err().kind(), ErrorKind::Ticket);

    let signed = world.signer.sign(&good);
    runner.push(&link, signed.clone(), what).await.unwrap();
    let replayed = refused(signed).await;
    assert!(replayed.to_string().contains("used already"), "{replayed}");
    assert!(replayed.is_retryable(), "with a new ticket");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_judged_by_the_hubs_clock() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("file", b"content")]).await;
    let client = world.client();
    let hour = 3_600_000;
    let known = [runner.identity.peer().node];
    client.hello(crate::support::now_ms() + hour, &known).await.unwrap();

    let by_our_clock = world.push(&runner, what).await.unwrap_err();
    assert!(by_our_clock.to_string().contains("expired"), "{by_our_clock}");
    let mut ticket = world.ticket(&runner, Direction::Push, what);
    ticket.issued_ms += hour;
    ticket.expires_ms += hour;
    let link = runner.link(&world).await;
    runner.push(&link, world.signer.sign(&ticket), what).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let missing = What { snapshot: new_snapshot(), ..first };
    assert_eq!(world.pull(&runner, missing).await.unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(world.push(&runner, missing).await.unwrap_err().kind(), ErrorKind::NoSnapshot);
    let nowhere = What { base: Some(new_snapshot()), ..first };
    let (what, _) = runner.work(first, &[]).await;
    let nowhere = What { base: nowhere.base, ..what };
    assert_eq!(world.push(&runner, nowhere).await.unwrap_err().kind(), ErrorKind::NoBase);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_moves_no_data_and_a_runner_asks_nothing() {
    let world = World::start().await;
    let runner = world.runner().await;
    let posing = ds_transfer::StoreClient::new(
        Endpoint::client(&runner.identity).unwrap(),
        world.address,
        world.store.peer().node,
    );
    let error = posing.drop_volume(VolumeId(Uuid::new_v4())).await.unwrap_err();
    assert!(error.to_string().contains("only a hub"), "{error}");

    let first = runner.shared_volume(&world).await;
    let hub = Endpoint::client(&world.hub()).unwrap();
    let link = hub.connect(world.address, world.store.peer().node).await.unwrap();
    let what = What { snapshot: new_snapshot(), ..first };
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Pull, what));
    assert!(runner.pull(&link, ticket, what).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_cannot_take_all_links() {
    let world = World::start().await;
    let (runner, other) = (world.runner().await, world.runner().await);
    let mut links = Vec::new();
    let refused = loop {
        let link = runner.link(&world).await;
        // A link that was let in answers.
        match link.open(&StreamOpen::default()).await {
            Ok(mut control) => match control.recv.recv::<StreamOpen>().await {
                Err(_) if link.is_closed() => break link,
                _ => links.push(link),
            },
            Err(_) => break link,
        }
    };
    assert!(refused.closed().await.to_string().contains("too many links"));
    assert_eq!(links.len(), 64);
    let first = other.shared_volume(&world).await;
    drop(links);
    world.client().list_snapshots(first.volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_the_hub_does_not_know_are_let_go() {
    let mut world = World::start().await;
    let (runner, other) = (world.runner().await, world.runner().await);
    let first = runner.shared_volume(&world).await;
    let (one, two) = (runner.link(&world).await, other.link(&world).await);
    // Both are let in by now: each has had an answer.
    for link in [&one, &two] {
        let mut control = link.open(&StreamOpen::default()).await.unwrap();
        let _ = control.recv.recv::<StreamOpen>().await;
    }
    let client = world.client();
    let known = [runner.identity.peer().node];
    client.hello(crate::support::now_ms(), &known).await.unwrap();
    assert!(two.closed().await.to_string().contains("does not know"));
    assert!(!one.is_closed());
    // A new link of a hub tells no nodes, and changes nothing; nor does a restart.
    drop(client);
    world.client().list_snapshots(first.volume).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            world.stop_store().await;
            world.start_store().await;
        }
        let (what, _) = runner.work(first, &[("file", b"content")]).await;
        world.push(&runner, what).await.unwrap();
        assert!(other.link(&world).await.closed().await.to_string().contains("does not know"));
    } // A hub may know nobody any more.
    world.client().hello(crate::support::now_ms(), &[]).await.unwrap();
    assert!(runner.link(&world).await.closed().await.to_string().contains("does not know"));
}
