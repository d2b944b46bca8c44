//! Receives that break off and go on, where ZFS keeps what it has; and that the same calls say so where it does not.

use std::{
    fs::File,
    io::{Read, Write},
};

use crate::support::{self, begin, commit, connect, has, noise, plan, read, transfer, two_pools, work};
use ds_zfs::{BEGIN_BYTES, Error, ResumeToken, SendFlags, SendPlan, SnapshotGuid, StreamMode, Volumes};

/// Receives the first `bytes` of a stream, as if its sender were gone then.
async fn receive_part(from: &Volumes, to: &Volumes, plan: &SendPlan, bytes: usize) -> Option<ResumeToken> {
    let sending = from.send(plan).await.unwrap();
    let intake = to.receive(plan).await.unwrap();
    let (mut source, receiving) = support::let_in(intake, sending.stdout.into()).await.unwrap();
    let mut stdin = File::from(receiving.stdin);
    let copying = tokio::task::spawn_blocking(move || {
        let mut part = vec![0; bytes - BEGIN_BYTES];
        source.read_exact(&mut part).unwrap();
        stdin.write_all(&part).unwrap();
    });
    copying.await.unwrap();
    sending.process.kill().await.unwrap();
    receiving.process.suspend().await.unwrap()
}

async fn go_on(from: &Volumes, to: &Volumes, plan: &SendPlan) -> ds_zfs::Result<SnapshotGuid> {
    let token = to.resumable(plan.volume, plan.snapshot).await?.expect("a part is here");
    let sending = from.send_resumed(plan, token.as_str()).await?;
    connect(sending, to.receive_resumed(plan).await?).await
}

#[tokio::test]
async fn every_kind_of_stream_goes_on_where_it_broke_off() {
    let (_one, _two, from, to) = two_pools(256).await;
    if !has(from.features().resume, "resume tokens") {
        return;
    }
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(6 << 20)).await;
    let full = plan(&from, &to, volume, second).await;
    let token = receive_part(&from, &to, &full, 4 << 20).await.expect("a part was kept");
    assert_eq!((token.to, token.from, token.snapshot()), (full.guid, None, Some(second)));
    assert!(token.bytes > 2 << 20, "{token:?}");
    assert_eq!(to.resumable(volume, second).await.unwrap().as_ref(), Some(&token));
    assert_eq!(to.snapshots(volume).await.unwrap(), []);
    assert_eq!(go_on(&from, &to, &full).await.unwrap(), full.guid);

    let third = commit(&from, volume, second, "b", &noise(5 << 20)).await;
    let incremental = plan(&from, &to, volume, third).await;
    let token = receive_part(&from, &to, &incremental, 3 << 20).await.expect("a part was kept");
    assert_eq!(token.from, incremental.kind.base().map(|base| base.guid));
    assert_eq!(go_on(&from, &to, &incremental).await.unwrap(), incremental.guid);

    let (_task, side) = work(&from, volume, second, "c", &noise(4 << 20)).await;
    let clone = plan(&from, &to, volume, side).await;
    receive_part(&from, &to, &clone, 3 << 20).await.expect("a part was kept");
    let parts = to.partials().await.unwrap();
    assert_eq!(parts.iter().map(|part| (part.volume, part.snapshot)).collect::<Vec<_>>(), [(volume, side)]);
    assert_eq!(go_on(&from, &to, &clone).await.unwrap(), clone.guid);
    assert_eq!(to.partials().await.unwrap(), []);

    for (snapshot, file, bytes) in [(third, "a", 6 << 20), (third, "b", 5 << 20), (side, "c", 4 << 20)] {
        let folder = to.reading_clone(volume, snapshot).await.unwrap();
        assert!(read(&folder, file) == noise(bytes), "{file} of {snapshot}");
    }
}

#[tokio::test]
async fn a_token_that_does_not_fit_is_cleared() {
    let (_one, two, from, to) = two_pools(256).await;
    if !has(from.features().resume, "resume tokens") {
        return;
    }
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(4 << 20)).await;
    let full = plan(&from, &to, volume, second).await;
    let is_stale = |error: &Error| matches!(error, Error::StaleToken { .. }) && error.is_retryable();
    assert!(is_stale(&to.receive_resumed(&full).await.unwrap_err()), "nothing is here");

    let token = receive_part(&from, &to, &full, 2 << 20).await.unwrap();
    for text in ["", "-R", "1-x", "1-a-b-c", &token.as_str().replace("-789c", "-789d")] {
        assert!(is_stale(&from.send_resumed(&full, text).await.unwrap_err()), "{text}");
    }
    // A receiver must not get at other snapshots by their tokens.
    let other =
        SendPlan { snapshot: first, guid: from.find(volume, first).await.unwrap().unwrap().guid, ..full };
    assert!(is_stale(&from.send_resumed(&other, token.as_str()).await.unwrap_err()));
    // A whole stream is not taken for a rest.
    let sending = from.send(&full).await.unwrap();
    let intake = to.receive_resumed(&full).await.unwrap();
    assert!(matches!(connect(sending, intake).await, Err(Error::Refused { .. })));

    // Another stream under the same name: what is here is of no use any more.
    let changed = SendPlan { guid: SnapshotGuid(1), ..full };
    assert!(is_stale(&to.receive_resumed(&changed).await.unwrap_err()));
    assert_eq!(to.partials().await.unwrap(), []);
    assert!(two.names().iter().all(|name| !name.contains(&volume.to_hex())), "{:?}", two.names());
    transfer(&from, &to, &full).await.unwrap();
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_cleared() {
    let (_one, two, from, to) = two_pools(256).await;
    if !has(from.features().resume, "resume tokens") {
        return;
    }
    let (volume, first) = begin(&from).await;
    transfer(&from, &to, &plan(&from, &to, volume, first).await).await.unwrap();
    let second = commit(&from, volume, first, "a", &noise(4 << 20)).await;
    let (_task, side) = work(&from, volume, first, "b", &noise(4 << 20)).await;
    let (line, branch) = (plan(&from, &to, volume, second).await, plan(&from, &to, volume, side).await);
    for part in [line, branch] {
        receive_part(&from, &to, &part, 2 << 20).await.unwrap();
    }
    assert_eq!(to.collect_partials(&[(volume, second)]).await.unwrap(), 1);
    assert_eq!(to.resumable(volume, side).await.unwrap(), None);
    assert!(to.resumable(volume, second).await.unwrap().is_some());
    // From its start, over what is here.
    transfer(&from, &to, &line).await.unwrap();
    assert_eq!(to.resumable(volume, second).await.unwrap(), None);

    receive_part(&from, &to, &branch, 2 << 20).await.unwrap();
    to.discard_partial(volume, side).await.unwrap();
    to.discard_partial(volume, side).await.unwrap();
    assert_eq!(to.partials().await.unwrap(), []);
    receive_part(&from, &to, &branch, 2 << 20).await.unwrap();
    transfer(&from, &to, &branch).await.unwrap();
    assert_eq!(to.partials().await.unwrap(), []);
    to.drop_volume(volume).await.unwrap();
    assert!(two.names().iter().all(|name| !name.contains(&volume.to_hex())), "{:?}", two.names());
}

#[tokio::test]
async fn a_zfs_without_tokens_says_so() {
    let (_one, two, from, to) = two_pools(256).await;
    if !has(!from.features().resume, "lack of resume tokens") {
        return;
    }
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &noise(4 << 20)).await;
    let full = plan(&from, &to, volume, second).await;
    assert_eq!(receive_part(&from, &to, &full, 2 << 20).await, None);
    assert!(two.names().iter().all(|name| !name.contains(&volume.to_hex())), "{:?}", two.names());
    assert_eq!(to.resumable(volume, second).await.unwrap(), None);
    assert_eq!((to.partials().await.unwrap(), to.collect_partials(&[]).await.unwrap()), (vec![], 0));
    to.discard_partial(volume, second).await.unwrap();
    let error = to.receive_resumed(&full).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }) && !error.is_retryable(), "{error}");
    let error = from.send_resumed(&full, "1-a-b-c").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pool version 23 cannot do this: it needs resumable receives (OpenZFS 0.7)"
    );
    let large = SendFlags { large_blocks: true, ..SendFlags::default() };
    for mode in [StreamMode::Raw, StreamMode::Decrypted(large)] {
        let planned = full.with_mode(mode);
        assert!(matches!(from.send(&planned).await, Err(Error::Unsupported { .. })));
        assert!(matches!(to.receive(&planned).await, Err(Error::Unsupported { .. })));
    }
    transfer(&from, &to, &full).await.unwrap();
}
