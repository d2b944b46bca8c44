use std::io;

use bytes::Bytes;
use ds_domain::ids::{SnapshotId, VolumeId};
use ds_proto::v1::FileKind;
use ds_transfer::{Error, RequestErrorKind, StoreClient};
use futures_util::{Stream, StreamExt, stream};
use tar::{Builder, EntryType, Header};
use uuid::Uuid;

use crate::support::{MIB, World, new_snapshot, noise};

fn tar(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let linked = *kind == EntryType::Symlink;
        header.set_size(if linked { 0 } else { content.len() as u64 });
        // Past the checks of the builder, as an attacker would write it.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if linked {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
        }
        header.set_cksum();
        builder.append(&header, if linked { &[] } else { *content }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn pieces(bytes: &[u8]) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

async fn new_volume(client: &StoreClient) -> (VolumeId, SnapshotId) {
    let (volume, first) = (VolumeId(Uuid::new_v4()), new_snapshot());
    let guid = client.create_volume(volume, first).await.unwrap();
    assert_eq!(client.create_volume(volume, first).await.unwrap(), guid, "idempotent");
    (volume, first)
}

async fn read(
    client: &StoreClient,
    volume: VolumeId,
    snapshot: SnapshotId,
    path: &str,
) -> Result<Vec<u8>, Error> {
    let content = client.read_file(volume, snapshot, path, 0, 0).await?;
    let size = content.size_bytes;
    let mut stream = std::pin::pin!(content.into_stream());
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    assert_eq!(bytes.len() as u64, size);
    Ok(bytes)
}

fn kind(error: &Error) -> RequestErrorKind {
    match error {
        Error::Request { kind, .. } => *kind,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_becomes_a_snapshot_whose_files_are_listed_and_read() {
    let world = World::start().await;
    let client = world.client();
    let (volume, first) = new_volume(&client).await;
    let big = noise(3 * MIB);
    let archive = tar(&[
        (EntryType::Regular, "train.py", b"print(1)"),
        (EntryType::Regular, "data/big", &big),
        (EntryType::Symlink, "data/link", b"../train.py"),
    ]);
    let second = new_snapshot();
    let imported = client.import_tar(volume, first, second, "sub", pieces(&archive)).await.unwrap();
    let told: Vec<_> = imported.files.iter().map(|f| (f.path.as_str(), f.added)).collect();
    assert_eq!(told, [("sub/train.py", true), ("sub/data/big", true), ("sub/data/link", true)]);

    let listed = client.list_files(volume, second, "", true, "", 0).await.unwrap();
    let paths: Vec<_> = listed.iter().map(|e| (e.path.as_str(), e.kind(), e.size_bytes)).collect();
    assert_eq!(
        paths,
        [
            ("sub", FileKind::Folder, 0),
            ("sub/data", FileKind::Folder, 0),
            ("sub/data/big", FileKind::File, 3 * MIB),
            ("sub/data/link", FileKind::Link, 0),
            ("sub/train.py", FileKind::File, 8),
        ]
    );
    let page = client.list_files(volume, second, "", true, "sub/data", 2).await.unwrap();
    assert_eq!(page.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["sub/data/big", "sub/data/link"]);
    assert_eq!(client.list_volumes().await.unwrap(), [volume]);
    assert!(read(&client, volume, second, "sub/data/big").await.unwrap() == big);
    assert_eq!(read(&client, volume, second, "sub/data/link").await.unwrap(), b"print(1)");
    let mut part = client.read_file(volume, second, "sub/train.py", 2, 3).await.unwrap();
    assert_eq!(part.next().await.unwrap().unwrap(), "int");
    assert!(client.list_files(volume, first, "", true, "", 0).await.unwrap().is_empty());

    let stored = client.list_snapshots(volume).await.unwrap();
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[1].guid, imported.guid.0);
    client.advance(volume, second).await.unwrap();
    client.advance(volume, second).await.unwrap();
    let third = new_snapshot();
    let again = tar(&[(EntryType::Regular, "train.py", b"print(2)")]);
    let imported = client.import_tar(volume, second, third, "sub", pieces(&again)).await.unwrap();
    assert!(!imported.files[0].added);
    client.drop_snapshot(volume, third).await.unwrap();
    client.drop_snapshot(volume, third).await.unwrap();
    client.drop_volume(volume).await.unwrap();
    client.drop_volume(volume).await.unwrap();
    assert!(client.list_snapshots(volume).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_out_and_things_that_are_not_there_are_refused() {
    let world = World::start().await;
    let client = world.client();
    let (volume, first) = new_volume(&client).await;
    for path in ["../../etc/passwd", "/etc/passwd", "a/../../b", "nul\0"] {
        let error = client.read_file(volume, first, path, 0, 0).await.err().unwrap();
        assert_eq!(kind(&error), RequestErrorKind::Invalid, "{path:?}: {error}");
        assert_eq!(
            kind(&client.list_files(volume, first, path, true, "", 0).await.unwrap_err()),
            RequestErrorKind::Invalid
        );
    }
    let missing = client.read_file(volume, first, "missing", 0, 0).await.err().unwrap();
    assert_eq!(kind(&missing), RequestErrorKind::NotFound);
    assert!(missing.to_string().contains("missing"));
    let error = client.list_files(volume, new_snapshot(), "", false, "", 0).await.unwrap_err();
    assert_eq!(kind(&error), RequestErrorKind::NotFound);
    let error = client.list_files(VolumeId(Uuid::new_v4()), first, "", false, "", 0).await.unwrap_err();
    assert_eq!(kind(&error), RequestErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_leaves_nothing() {
    let world = World::start().await;
    let client = world.client();
    let (volume, first) = new_volume(&client).await;
    let before = world.pool.list();
    let without_folders =
        |list: Vec<String>| list.into_iter().filter(|name| !name.contains("/b/")).collect::<Vec<_>>();
    let hostile: [&[(EntryType, &str, &[u8])]; 4] = [
        &[(EntryType::Regular, "ok", b"ok"), (EntryType::Regular, "../evil", b"x")],
        &[(EntryType::Regular, "/evil", b"x")],
        &[(EntryType::Symlink, "out", b"../../../etc")],
        &[(EntryType::Char, "device", b"")],
    ];
    for entries in hostile {
        let (snapshot, archive) = (new_snapshot(), pieces(&tar(entries)));
        let error = client.import_tar(volume, first, snapshot, "", archive).await.unwrap_err();
        assert_eq!(kind(&error), RequestErrorKind::Invalid, "{error}");
        assert!(!world.pool.list().iter().any(|name| name.contains(&snapshot.to_hex())));
    }

    // The person's connection to the hub breaks in the middle.
    let snapshot = new_snapshot();
    let whole = tar(&[(EntryType::Regular, "big", &noise(2 * MIB))]);
    let broken = pieces(&whole[..1_000_000])
        .chain(stream::iter([Err(io::Error::from(io::ErrorKind::ConnectionReset))]));
    assert!(client.import_tar(volume, first, snapshot, "", broken).await.is_err());
    // The store notices by itself; a request for the same snapshot is refused until it has cleaned up.
    loop {
        let archive = pieces(&tar(&[(EntryType::Regular, "small", b"x")]));
        match client.import_tar(volume, first, snapshot, "", archive).await {
            Ok(_) => break,
            // Each try has a link, and so many at once are too many as well.
            Err(error) => {
                assert!(error.to_string().contains("under way") || error.is_retryable(), "{error:?}");
            }
        }
    }
    client.drop_snapshot(volume, snapshot).await.unwrap();
    assert_eq!(without_folders(world.pool.list()), without_folders(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_does_not_fit_the_pool_is_refused() {
    let world = World::with_pool_of(80 * MIB).await;
    let client = world.client();
    let (volume, first) = new_volume(&client).await;
    let (snapshot, archive) = (new_snapshot(), tar(&[(EntryType::Regular, "big", &noise(120 * MIB))]));
    let error = client.import_tar(volume, first, snapshot, "", pieces(&archive)).await.unwrap_err();
    assert_eq!(kind(&error), RequestErrorKind::Full, "{error}");
    assert!(!world.pool.list().iter().any(|name| name.contains(&snapshot.to_hex())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_killed_collects_what_it_left() {
    let mut world = World::start().await;
    let client = world.client();
    let (volume, first) = new_volume(&client).await;
    client.list_files(volume, first, "", true, "", 0).await.unwrap();
    // An import that is under way when the store dies.
    let snapshot = new_snapshot();
    let head = pieces(&tar(&[(EntryType::Regular, "file", &noise(MIB))])[..600_000]);
    let import = client.import_tar(volume, first, snapshot, "", head.chain(stream::pending()));
    let mut import = std::pin::pin!(import);
    while !world.pool.list().iter().any(|name| name.contains(&snapshot.to_hex())) {
        assert!(futures_util::poll!(&mut import).is_pending());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.kill_store().await;
    assert!(import.await.is_err());
    let left = |world: &World| {
        let names = world.pool.list().into_iter();
        names.filter(|name| name.contains(&snapshot.to_hex()) || name.contains("/r/")).count()
    };
    assert!(left(&world) > 0);
    world.start_store().await;
    assert_eq!(left(&world), 0);

    // The hub's client finds the new process at its new address only by a new client; the volume is as it was.
    assert_eq!(world.client().list_snapshots(volume).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_reads_on_keep_no_request_waiting() {
    let world = World::start().await;
    let client = world.client();
    let (volume, first) = new_volume(&client).await;
    let (second, archive) = (new_snapshot(), tar(&[(EntryType::Regular, "big", &noise(40 * MIB))]));
    client.import_tar(volume, first, second, "", pieces(&archive)).await.unwrap();
    let mut paused = Vec::new();
    for _ in 0..12 {
        let mut content = client.read_file(volume, second, "big", 0, 0).await.unwrap();
        assert!(content.next().await.unwrap().is_some());
        paused.push(content);
    }
    assert_eq!(client.list_snapshots(volume).await.unwrap().len(), 2);
    assert_eq!(client.list_files(volume, second, "", true, "", 0).await.unwrap().len(), 1);
    // Each can be read on.
    let mut left = paused.swap_remove(5);
    let mut bytes = 0;
    while let Some(piece) = left.next().await.unwrap() {
        bytes += piece.len() as u64;
    }
    assert!(bytes > 39 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn special_files_of_a_task_are_named_and_not_opened() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let world = World::start().await;
    let client = world.client();
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (what, _) = {
        let task = ds_domain::ids::TaskId(Uuid::new_v4());
        let home = runner.volumes.clone_for_task(task, first.volume, first.snapshot).await.unwrap();
        mknodat(CWD, home.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, home.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        let snapshot = new_snapshot();
        let guid = runner.volumes.snapshot_task(task, first.volume, snapshot).await.unwrap();
        (crate::support::What { snapshot, base: Some(first.snapshot), ..first }, guid)
    };
    world.push(&runner, what).await.unwrap();
    for (path, words) in [("fifo", "a pipe"), ("null", "a device")] {
        let error = client.read_file(what.volume, what.snapshot, path, 0, 0).await.err().unwrap();
        assert_eq!(kind(&error), RequestErrorKind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
    let listed = client.list_files(what.volume, what.snapshot, "", true, "", 0).await.unwrap();
    assert!(listed.iter().all(|entry| entry.kind() == FileKind::Other) && listed.len() == 2, "{listed:?}");
}
