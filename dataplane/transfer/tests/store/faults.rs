use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use ds_link::{Control, Link, Transport, Transports};
use ds_proto::v1::{
    Abort, AbortCode, Direction, Fin, Plan, StreamOpen, TransferControl, TransferOpen, TransferReply,
    stream_open::Kind, transfer_control::Message, transfer_reply::Reply,
};
use ds_transfer::{Error, ErrorKind, Progress};
use ds_wire::{ChunkHeader, Digest, Digester, Form, TransferId};
use ds_zfs::SnapshotGuid;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{MIB, Runner, What, World, no_zfs_process_is_left, noise};

/// Pushes and does `fault` as soon as the first bytes are written at the store.
async fn push_with_fault(
    world: &World,
    runner: &Runner,
    what: What,
    fault: impl Fn(&Link, &CancellationToken) + Send + Sync + 'static,
) -> Result<(), Error> {
    let ticket = world.signer.sign(&world.ticket(runner, Direction::Push, what));
    let (link, cancel) = (runner.link(world).await, CancellationToken::new());
    let done = AtomicBool::new(false);
    let (broken, cancelled) = (link.clone(), cancel.clone());
    let note = move |progress: Progress| {
        if progress.bytes > 0 && !done.swap(true, Ordering::Relaxed) {
            fault(&broken, &cancelled);
        }
    };
    let What { volume, snapshot, .. } = what;
    ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, note, &cancel).await.map(drop)
}

/// Pushes, again while an earlier attempt is still being cleaned up.
async fn push_until_not_busy(world: &World, runner: &Runner, what: What) -> Result<u64, Error> {
    loop {
        match world.push(runner, what).await {
            Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
            result => return result.map(|(_, receipt)| receipt.guid),
        }
    }
}

/// Waits until the store has nothing under way, and checks that nothing of `what` is on its pool.
async fn nothing_remains(world: &World, what: What) {
    let under_way = world.pool.folder().join("state/incoming");
    while std::fs::read_dir(&under_way).unwrap().next().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nothing_remains_on_the_pool(world, what).await;
}

/// Another attempt may come, for which what had arrived is kept elsewhere.
async fn nothing_remains_on_the_pool(world: &World, what: What) {
    no_zfs_process_is_left().await;
    while world.pool.list().into_iter().any(|name| name.contains(&what.snapshot.to_hex())) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_link_fails_both_ends_and_a_retry_succeeds() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, guid) = runner.work(first, &[("data", &noise(96 * MIB))]).await;
    let error =
        push_with_fault(&world, &runner, what, |link, _| link.close("pulled the plug")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Link && error.is_retryable(), "{error}");
    nothing_remains_on_the_pool(&world, what).await;
    assert_eq!(SnapshotGuid(push_until_not_busy(&world, &runner, what).await.unwrap()), guid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_push_leaves_nothing_on_the_pool() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(96 * MIB))]).await;
    let error = push_with_fault(&world, &runner, what, |_, cancel| cancel.cancel()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    nothing_remains_on_the_pool(&world, what).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_on_the_pool() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(96 * MIB))]).await;
    let begun = CancellationToken::new();
    let begins = begun.clone();
    let push = push_with_fault(&world, &runner, what, move |_, _| begins.cancel());
    tokio::select! {
        result = push => panic!("it should have been dropped: {result:?}"),
        () = begun.cancelled() => {}
    }
    nothing_remains_on_the_pool(&world, what).await;
    push_until_not_busy(&world, &runner, what).await.unwrap();
}

/// Its sender would wait for a minute for whoever comes back, and what waits for its `zfs send` as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_begun_anew_ends_the_one_that_was_lost() {
    let world = World::start().await;
    let author = world.runner().await;
    let first = author.shared_volume(&world).await;
    let (what, guid) = author.work(first, &[("data", &noise(96 * MIB))]).await;
    world.push(&author, what).await.unwrap();
    let mut reader = world.runner().await;
    reader.endpoint = reader.endpoint.over(Transports::Only(Transport::Tcp));

    let ticket = world.signer.sign(&world.ticket(&reader, Direction::Pull, what));
    let (link, begun, never) =
        (reader.link(&world).await, CancellationToken::new(), CancellationToken::new());
    let begins = begun.clone();
    let note = move |_| begins.cancel();
    tokio::select! {
        pulled = ds_transfer::pull(&link, &reader.volumes, ticket, what.volume, what.snapshot, note, &never) => {
            panic!("it should have been dropped: {pulled:?}")
        }
        () = begun.cancelled() => {}
    }
    drop(link);
    let receipt = loop {
        match world.pull(&reader, what).await {
            Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
            result => break result.unwrap(),
        }
    };
    assert_eq!(SnapshotGuid(receipt.guid), guid);
    timeout(Duration::from_secs(30), no_zfs_process_is_left()).await.expect("the lost one has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_nothing_at_either_end() {
    let world = World::start().await;
    let (runner, other) = (world.runner().await, world.runner().await);
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(96 * MIB))]).await;
    world.push(&runner, what).await.unwrap();
    let ticket = world.signer.sign(&world.ticket(&other, Direction::Pull, what));
    let (link, cancel) = (other.link(&world).await, CancellationToken::new());
    let cancelled = cancel.clone();
    let note = move |progress: Progress| {
        if progress.bytes > 0 {
            cancelled.cancel();
        }
    };
    let What { volume, snapshot, .. } = what;
    let pull = ds_transfer::pull(&link, &other.volumes, ticket, volume, snapshot, note, &cancel);
    assert_eq!(pull.await.unwrap_err().kind(), ErrorKind::Cancelled);
    no_zfs_process_is_left().await;
    assert!(!other.pool.list().iter().any(|name| name.contains(&what.snapshot.to_hex())));
    world.pull(&other, what).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stops_ends_its_transfers_and_serves_again() {
    let mut world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(96 * MIB))]).await;
    let begun = CancellationToken::new();
    let (push, ()) = {
        let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
        let link = runner.link(&world).await;
        let beginning = begun.clone();
        let note = move |_: Progress| beginning.cancel();
        let never = CancellationToken::new();
        let What { volume, snapshot, .. } = what;
        let push = ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, note, &never);
        tokio::join!(push, async {
            begun.cancelled().await;
            world.stop_store().await;
        })
    };
    assert!(push.unwrap_err().is_retryable());
    nothing_remains_on_the_pool(&world, what).await;
    world.start_store().await;
    world.push(&runner, what).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_said_and_nothing_of_it_remains() {
    let world = World::with_pool_of(80 * MIB).await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(120 * MIB))]).await;
    let error = world.push(&runner, what).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(!error.is_retryable());
    nothing_remains(&world, what).await;
    let (small, _) = runner.work(first, &[("data", b"small")]).await;
    world.push(&runner, small).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_snapshot_pushed_twice_at_once_arrives_once() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = runner.work(first, &[("data", &noise(24 * MIB))]).await;
    let (one, two) = tokio::join!(world.push(&runner, what), world.push(&runner, what));
    let (done, other) = if one.is_ok() { (one, two) } else { (two, one) };
    done.unwrap();
    match other {
        Ok((_, receipt)) => assert_eq!(receipt.stream_bytes, 0),
        Err(error) => assert!(error.kind() == ErrorKind::Busy && error.is_retryable(), "{error}"),
    }
    push_until_not_busy(&world, &runner, what).await.unwrap();
}

// A peer with a good ticket and bad manners.

struct Hostile {
    link: Link,
    control: Control,
    transfer: TransferId,
}

impl Hostile {
    async fn open(world: &World, runner: &Runner, what: What, guid: SnapshotGuid) -> Self {
        let ours = runner.volumes.find(what.volume, what.base.unwrap()).await.unwrap().unwrap();
        let transfer = TransferId(Uuid::new_v4().into_bytes());
        let plan = Plan {
            guid: guid.0,
            base: what.base.unwrap().to_bytes(),
            base_guid: ours.guid.0,
            clone: true,
            ..Plan::default()
        };
        let open = TransferOpen {
            transfer: transfer.0.to_vec(),
            ticket: Some(world.signer.sign(&world.ticket(runner, Direction::Push, what))),
            plan: Some(plan.clone()),
            reception: None,
        };
        let link = runner.link(world).await;
        let mut control = link.open(&StreamOpen { kind: Some(Kind::Transfer(open)) }).await.unwrap();
        let reply = control.recv.recv::<TransferReply>().await.unwrap().unwrap().reply.unwrap();
        assert!(matches!(reply, Reply::Accept(_)), "{reply:?}");
        control.send.send(&TransferControl { message: Some(Message::Plan(plan)) }).await.unwrap();
        Self { link, control, transfer }
    }

    fn header(&self, index: u64, payload: &[u8]) -> ChunkHeader {
        ChunkHeader {
            transfer: self.transfer,
            index,
            offset: index * ds_wire::CHUNK_BYTES as u64,
            length: u32::try_from(payload.len()).unwrap(),
            digest: Digester::new(self.transfer).of(index, &Bytes::copy_from_slice(payload)),
            form: Form::Plain,
        }
    }

    /// Errors are those of a store that cut us off already.
    async fn send(&self, header: &[u8], payload: &[u8]) {
        let _ = self.link.send_chunk(header, Bytes::copy_from_slice(payload)).await;
    }

    async fn abort(mut self) -> Abort {
        loop {
            match self.control.recv.recv::<TransferControl>().await.unwrap().unwrap().message.unwrap() {
                Message::Ack(_) => {}
                Message::Abort(abort) => return abort,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_sender_is_cut_off_and_leaves_nothing() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, guid) = runner.work(first, &[("data", b"x")]).await;
    let noise = noise(ds_wire::CHUNK_BYTES as u64);
    for attack in 0..11 {
        let mut hostile = Hostile::open(&world, &runner, what, guid).await;
        let good = hostile.header(0, &noise);
        match attack {
            0 => {
                let mut header = good.encode();
                header[..4].copy_from_slice(b"HTTP");
                hostile.send(&header, &noise).await;
            }
            1 => hostile.send(&hostile.header(1_000_000, &noise).encode(), &noise).await,
            2 => hostile.send(&ChunkHeader { length: u32::MAX, ..good }.encode(), &noise).await,
            3 => hostile.send(&ChunkHeader { digest: Digest([0; 16]), ..good }.encode(), &noise).await,
            4 => hostile.send(&good.encode(), &[noise.clone(), noise.clone()].concat()).await,
            5 => hostile.send(&good.encode(), &noise[..1000]).await,
            6 => {
                // Without end: whatever the receiver makes of it, some chunk is one too many.
                for index in 0..1_000_000 {
                    hostile.send(&hostile.header(index, &noise).encode(), &noise).await;
                    if index > 80 {
                        break;
                    }
                }
            }
            8 => {
                let header = ChunkHeader { form: Form::Zstd(1000), ..good };
                hostile.send(&header.encode(), &noise[..1000]).await;
            }
            9 => {
                let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
                let form = Form::Zstd(u32::try_from(bomb.len()).unwrap());
                hostile.send(&ChunkHeader { form, ..good }.encode(), &bomb).await;
            }
            7 => {
                let fin = Fin { bytes: u64::MAX, chunks: 3, digest: vec![0; 16] };
                let fin = TransferControl { message: Some(Message::Fin(fin)) };
                hostile.control.send.send(&fin).await.unwrap();
            }
            _ => {
                for _ in 0..2 {
                    hostile.send(&good.encode(), &noise).await;
                }
            }
        }
        // Bytes that are no ZFS stream may be found out by ZFS before us.
        let abort = hostile.abort().await;
        let expected = [AbortCode::Corrupt, AbortCode::Failed];
        assert!(expected.contains(&abort.code()), "attack {attack}: {abort:?}");
        if ![4, 6, 10].contains(&attack) {
            assert_eq!(abort.code(), AbortCode::Corrupt, "attack {attack}: {abort:?}");
        }
        nothing_remains(&world, what).await;
    }
    world.push(&runner, what).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_brings_properties_is_refused_and_mounts_nothing() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, guid) = runner.work(first, &[("evil", b"x")]).await;
    let outside = tempfile::tempdir().unwrap();
    let evil = outside.path().join("evil");
    let found = runner.volumes.snapshots(what.volume).await.unwrap();
    let name = |id| {
        let holder: &ds_zfs::Snapshot = found.iter().find(|s| s.id == id).unwrap();
        (holder.filesystem.clone(), format!("{}@{}", holder.filesystem, id.to_hex()))
    };
    let zfs = |arguments: &[&str]| {
        let output = std::process::Command::new("zfs").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    zfs(&["set", &format!("mountpoint={}", evil.display()), &name(what.snapshot).0]);
    let stream = zfs(&["send", "-p", "-i", &name(first.snapshot).1, &name(what.snapshot).1]);
    zfs(&["inherit", "mountpoint", &name(what.snapshot).0]);

    let hostile = Hostile::open(&world, &runner, what, guid).await;
    hostile.send(&hostile.header(0, &stream).encode(), &stream).await;
    let mut hostile = hostile;
    let digest = {
        let mut sender = ds_wire::Sender::new(hostile.transfer, 64 << 20).unwrap();
        sender.push(&mut Bytes::from(stream.clone()));
        sender.finish().digest
    };
    let fin = Fin { bytes: stream.len() as u64, chunks: 1, digest: digest.0.to_vec() };
    hostile.control.send.send(&TransferControl { message: Some(Message::Fin(fin)) }).await.unwrap();
    let abort = hostile.abort().await;
    assert_eq!(abort.code(), AbortCode::Corrupt, "{abort:?}");
    assert!(abort.message.contains("properties"), "{abort:?}");
    nothing_remains(&world, what).await;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*evil.to_string_lossy()));
    world.push(&runner, what).await.unwrap();
}
