//! Streams between two real pools: every kind, and everything that goes wrong with one.

use std::io::{Read, Write};

use crate::support::{self, Pool, commit, plan, read, snapshot, transfer, volume, work};
use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::{BEGIN_BYTES, BadBeginning, Error, SendPlan, SnapshotGuid, StreamKind, StreamReader, Volumes};

/// Bytes that do not compress, the same in each run.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}

async fn two_pools(second_mib: u64) -> (Pool, Pool, Volumes, Volumes) {
    // OpenZFS keeps up to half of a small pool for itself.
    let (one, two) = (Pool::create(256).await, Pool::create(second_mib).await);
    let (from, to) = (one.volumes().await, two.volumes().await);
    (one, two, from, to)
}

async fn begin(from: &Volumes) -> (VolumeId, SnapshotId) {
    let (volume, first) = (volume(), snapshot());
    from.create(volume, first).await.unwrap();
    (volume, first)
}

async fn bytes_of(volumes: &Volumes, plan: &SendPlan) -> Vec<u8> {
    let sending = volumes.send(plan).await.unwrap();
    let mut stream = std::fs::File::from(sending.stdout);
    let bytes = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = bytes.await.unwrap().unwrap();
    sending.process.finish().await.unwrap();
    bytes
}

async fn receive_bytes(volumes: &Volumes, plan: &SendPlan, bytes: Vec<u8>) -> ds_zfs::Result<SnapshotGuid> {
    let mut receiving = volumes.receive(plan).await?.begin(&bytes)?;
    receiving.stream.push(&bytes[BEGIN_BYTES..]).ok();
    let mut stdin = std::fs::File::from(receiving.stdin);
    // A receiver that refuses closes its end early.
    tokio::task::spawn_blocking(move || stdin.write_all(&bytes[BEGIN_BYTES..])).await.unwrap().ok();
    receiving.process.finish(&receiving.stream).await
}

#[tokio::test]
async fn every_kind_of_stream_arrives_and_both_sides_advance() {
    let (_one, two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(100_000)).await;

    let full = plan(&from, &to, volume, second).await;
    assert_eq!(full.kind, StreamKind::Full);
    assert!(from.estimate(&full).await.unwrap().is_some());
    assert_eq!(transfer(&from, &to, &full).await.unwrap(), full.guid);
    assert!(to.find(volume, second).await.unwrap().unwrap().main);
    assert!(matches!(to.receive(&full).await, Err(Error::AlreadyHere { .. })));

    let third = commit(&from, volume, second, "b", b"3").await;
    let incremental = plan(&from, &to, volume, third).await;
    assert!(matches!(incremental.kind, StreamKind::Incremental(base) if base.snapshot == second));
    transfer(&from, &to, &incremental).await.unwrap();

    // A branch on an older snapshot, then one on the head; the head's is advanced to on both sides.
    let (side_task, side) = work(&from, volume, second, "side", b"s").await;
    let (task, fourth) = work(&from, volume, third, "c", b"4").await;
    for result in [side, fourth] {
        let clone = plan(&from, &to, volume, result).await;
        assert!(matches!(clone.kind, StreamKind::Clone(_)));
        assert_eq!(transfer(&from, &to, &clone).await.unwrap(), clone.guid);
    }
    for volumes in [&from, &to] {
        volumes.advance(volume, fourth).await.unwrap();
        let found = volumes.snapshots(volume).await.unwrap();
        let branch = found.iter().find(|s| s.id == side).unwrap();
        assert_eq!(branch.origin.as_ref().unwrap().snapshot, second);
    }
    from.drop_task(task).await.unwrap();
    from.drop_task(side_task).await.unwrap();

    // After that the main line goes on as before, in both directions.
    let fifth = commit(&to, volume, fourth, "d", b"5").await;
    let back = plan(&to, &from, volume, fifth).await;
    assert!(matches!(back.kind, StreamKind::Incremental(base) if base.snapshot == fourth));
    transfer(&to, &from, &back).await.unwrap();
    let line = |volumes: &Volumes| {
        let volumes = volumes.clone();
        async move {
            let found = volumes.snapshots(volume).await.unwrap();
            found.into_iter().filter(|s| s.main).map(|s| (s.id, s.guid)).collect::<Vec<_>>()
        }
    };
    assert_eq!(line(&to).await, line(&from).await[1..], "the first snapshot was not sent");
    let reading = from.reading_clone(volume, fifth).await.unwrap();
    assert_eq!((read(&reading, "a"), read(&reading, "d")), (noise(100_000), b"5".to_vec()));
    assert!(!two.folder.path().join("mnt/v").exists(), "what is received is not mounted");
}

#[tokio::test]
async fn a_stream_that_was_ended_leaves_nothing() {
    let (_one, two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(8 << 20)).await;
    let full = plan(&from, &to, volume, second).await;
    let stream = bytes_of(&from, &full).await;

    let receiving = to.receive(&full).await.unwrap().begin(&stream).unwrap();
    let mut stdin = std::fs::File::from(receiving.stdin);
    let half = stream[BEGIN_BYTES..stream.len() / 2].to_vec();
    let stdin =
        tokio::task::spawn_blocking(move || stdin.write_all(&half).map(|()| stdin)).await.unwrap().unwrap();
    assert!(matches!(to.receive(&full).await, Err(Error::UnderWay { .. })), "it is under way");
    drop(stdin);
    receiving.process.abort().await.unwrap();
    assert!(two.names().iter().all(|name| !name.contains(&volume.to_hex())), "{:?}", two.names());

    // Cut short, damaged, or no stream at all: an error that says so, and nothing stays.
    let mut damaged = stream.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xaa);
    for broken in [stream[..stream.len() / 2].to_vec(), damaged] {
        let error = receive_bytes(&to, &full, broken).await.unwrap_err();
        assert!(matches!(error, Error::DamagedStream(_)), "{error}");
        assert!(two.names().iter().all(|name| !name.contains(&volume.to_hex())));
    }
    for none in [b"no stream".to_vec(), vec![0; 1000]] {
        let error = receive_bytes(&to, &full, none).await.unwrap_err();
        assert!(matches!(error, Error::Refused { source: BadBeginning::NoStream, .. }), "{error}");
    }
    let sending = from.send(&full).await.unwrap();
    drop(sending.stdout);
    sending.process.kill().await.unwrap();
    receive_bytes(&to, &full, stream).await.unwrap();
}

#[tokio::test]
async fn another_snapshot_than_planned_is_not_let_in() {
    let (_one, _two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let full = plan(&from, &to, volume, first).await;
    let stream = bytes_of(&from, &full).await;
    let lie = SendPlan { guid: SnapshotGuid(1), ..full };
    let error = receive_bytes(&to, &lie, stream.clone()).await.unwrap_err();
    let found = |error: Error| match error {
        Error::Refused { source: BadBeginning::Snapshot { found, .. }, .. } => found,
        other => panic!("{other}"),
    };
    assert_eq!(found(error), full.guid);
    assert_eq!(to.snapshots(volume).await.unwrap(), []);
    assert!(matches!(from.send(&lie).await, Err(Error::WrongBase(_))));
    receive_bytes(&to, &full, stream).await.unwrap();

    let second = commit(&from, volume, first, "a", b"2").await;
    let incremental = plan(&from, &to, volume, second).await;
    let lie = SendPlan { guid: SnapshotGuid(1), ..incremental };
    let stream = bytes_of(&from, &incremental).await;
    assert_eq!(found(receive_bytes(&to, &lie, stream).await.unwrap_err()), incremental.guid);
    assert_eq!(to.snapshots(volume).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_base_that_does_not_fit_is_refused_and_planned_again() {
    let (_one, _two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    transfer(&from, &to, &plan(&from, &to, volume, first).await).await.unwrap();
    let second = commit(&from, volume, first, "a", b"2").await;
    let planned = plan(&from, &to, volume, second).await;
    // Meanwhile the other side's main line went on.
    let theirs = commit(&to, volume, first, "b", b"other").await;
    let error = to.receive(&planned).await.unwrap_err();
    assert!(matches!(error, Error::WrongBase(_)) && error.is_retryable(), "{error}");

    let again = plan(&from, &to, volume, second).await;
    assert_eq!(again.kind, StreamKind::Full);
    transfer(&from, &to, &again).await.unwrap();
    let found = to.snapshots(volume).await.unwrap();
    let line: Vec<_> = found.iter().map(|s| (s.id, s.main)).collect();
    assert_eq!(
        line,
        [(first, true), (theirs, true), (second, false)],
        "a full stream beside a main line is a branch"
    );

    // Moving there keeps what was the main line as a branch.
    to.advance(volume, second).await.unwrap();
    let found = to.snapshots(volume).await.unwrap();
    let line: Vec<_> = found.iter().map(|s| (s.id, s.main)).collect();
    assert_eq!(line, [(second, true), (first, false), (theirs, false)]);
}

#[tokio::test]
async fn a_full_pool_says_so_and_keeps_what_it_has() {
    let (_one, two, from, to) = two_pools(64).await;
    let (volume, first) = begin(&from).await;
    transfer(&from, &to, &plan(&from, &to, volume, first).await).await.unwrap();
    let second = commit(&from, volume, first, "big", &noise(80 << 20)).await;
    let incremental = plan(&from, &to, volume, second).await;
    let sending = from.send(&incremental).await.unwrap();
    let intake = to.receive(&incremental).await.unwrap();
    let (source, receiving) = support::begin(intake, sending.stdout.into()).await.unwrap();
    let (copied, stream) = support::pass(source, receiving.stdin.into(), receiving.stream).await;
    assert!(copied.is_err(), "the receiver stopped reading");
    let error = receiving.process.finish(&stream).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace(_)) && !error.is_retryable(), "{error}");
    assert!(sending.process.finish().await.is_err());
    assert_eq!(to.snapshots(volume).await.unwrap().len(), 1, "{:?}", two.names());
}

/// What `zfs send` writes with these arguments.
fn sent_by_hand(arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("zfs").arg("send").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn a_stream_with_properties_is_not_let_in() {
    let (_one, two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let outside = tempfile::tempdir().unwrap();
    transfer(&from, &to, &plan(&from, &to, volume, first).await).await.unwrap();
    let before = two.names();
    for continued in [false, true] {
        let (_task, target) = work(&from, volume, first, "evil", b"x").await;
        if continued {
            from.advance(volume, target).await.unwrap();
        }
        let planned = plan(&from, &to, volume, target).await;
        assert_eq!(matches!(planned.kind, StreamKind::Incremental(_)), continued);
        let found = from.snapshots(volume).await.unwrap();
        let name = |id: SnapshotId| {
            let holder = found.iter().find(|s| s.id == id).unwrap();
            (holder.filesystem.clone(), format!("{}@{}", holder.filesystem, id.to_hex()))
        };
        let evil = outside.path().join(format!("evil{continued}"));
        support::zfs(&["set", &format!("mountpoint={}", evil.display()), &name(target).0]);
        let stream = sent_by_hand(&["-p", "-i", &name(first).1, &name(target).1]);
        support::zfs(&["inherit", "mountpoint", &name(target).0]);
        let error = receive_bytes(&to, &planned, stream).await.unwrap_err();
        assert!(matches!(error, Error::Refused { source: BadBeginning::Compound, .. }), "{error}");
        assert!(!two.names().iter().any(|name| name.contains(&target.to_hex())));
        let main = two.dataset(&format!("v/{}", volume.to_hex()));
        let shown = support::zfs(&["get", "-H", "-o", "value", "mountpoint", &main]);
        assert_eq!(shown.trim(), "none");
    }
    assert!(two.names().len() <= before.len() + 1, "{:?}", two.names());
}

#[tokio::test]
async fn two_receives_into_one_place_do_not_meet() {
    let (_one, _two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(100_000)).await;
    // Both make the main line.
    let (one, two) = (plan(&from, &to, volume, first).await, plan(&from, &to, volume, second).await);
    let stream = bytes_of(&from, &one).await;
    let mut receiving = to.receive(&one).await.unwrap().begin(&stream).unwrap();
    for late in [one, two] {
        let error = to.receive(&late).await.unwrap_err();
        assert!(matches!(error, Error::UnderWay { .. }) && error.is_retryable(), "{error}");
    }
    let mut stdin = std::fs::File::from(receiving.stdin);
    receiving.stream.push(&stream[BEGIN_BYTES..]).unwrap();
    stdin.write_all(&stream[BEGIN_BYTES..]).unwrap();
    drop(stdin);
    assert_eq!(receiving.process.finish(&receiving.stream).await.unwrap(), one.guid);
    assert!(matches!(to.receive(&one).await, Err(Error::AlreadyHere { .. })));
    transfer(&from, &to, &plan(&from, &to, volume, second).await).await.unwrap();
}

#[tokio::test]
async fn streams_of_this_machines_zfs_are_read_in_passing() {
    let (_one, _two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(3 << 20)).await;
    let full = plan(&from, &to, volume, second).await;
    transfer(&from, &to, &full).await.unwrap();
    let third = commit(&from, volume, second, "a", &noise(10_000)).await;
    let incremental = plan(&from, &to, volume, third).await;
    for plan in [full, incremental] {
        let bytes = bytes_of(&from, &plan).await;
        let mut stream = StreamReader::new();
        bytes.chunks(10_007).for_each(|piece| stream.push(piece).unwrap());
        let progress = stream.finish().unwrap();
        assert_eq!(progress.stream_bytes, bytes.len() as u64);
        assert!(progress.logical_bytes < progress.stream_bytes, "the rest are records: {progress:?}");
        let begin = stream.begin().unwrap();
        assert_eq!((begin.to, begin.from), (plan.guid, plan.kind.base().map(|base| base.guid)));

        // Cut off at the first record behind the damage, wherever that is; what follows never gets to ZFS.
        for at in (BEGIN_BYTES..bytes.len()).step_by(bytes.len() / 50) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let mut stream = StreamReader::new();
            let error = stream.push(&damaged).and_then(|()| stream.finish()).err();
            // What zfs-fuse leaves open in its last record is covered by no checksum.
            assert!(error.is_some() || at + BEGIN_BYTES > bytes.len(), "byte {at} of {}", bytes.len());
        }
    }
}
