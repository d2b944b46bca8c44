//! Holds and bookmarks around sends.

use crate::support::{begin, has, plan, snapshot, transfer, two_pools, zfs};
use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::{Error, Have, StreamKind, Volumes, plan_send_from};

fn name(main: &str, snapshot: SnapshotId) -> String {
    format!("{main}@{}", snapshot.to_hex())
}

async fn guids(volumes: &Volumes, volume: VolumeId) -> Vec<ds_zfs::SnapshotGuid> {
    volumes.bookmarks(volume).await.unwrap().iter().map(|bookmark| bookmark.guid).collect()
}

#[tokio::test]
async fn what_was_sent_last_is_kept_as_the_common_ground() {
    let (one, _two, from, to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let main = one.dataset(&format!("v/{}", volume.to_hex()));
    let full = plan(&from, &to, volume, first).await;
    for _ in 0..2 {
        from.guard_send(&full, "peer").await.unwrap();
    }
    transfer(&from, &to, &full).await.unwrap();
    from.keep_sent(&full, "peer").await.unwrap();

    let second = snapshot();
    zfs(&["snapshot", &name(&main, second)]);
    let next = plan(&from, &to, volume, second).await;
    assert!(matches!(next.kind, StreamKind::Incremental(base) if base.snapshot == first));
    from.guard_send(&next, "peer").await.unwrap();
    let refs = |id| zfs(&["get", "-H", "-o", "value", "userrefs", &name(&main, id)]).trim().to_owned();
    assert_eq!((refs(first), refs(second)), ("1".to_owned(), "1".to_owned()));
    // It did not arrive at first: the base stays.
    from.release(volume, second, "peer").await.unwrap();
    assert_eq!((refs(first), refs(second)), ("1".to_owned(), "0".to_owned()));
    from.guard_send(&next, "peer").await.unwrap();
    transfer(&from, &to, &next).await.unwrap();
    from.keep_sent(&next, "peer").await.unwrap();
    assert_eq!((refs(first), refs(second)), ("0".to_owned(), "1".to_owned()));
}

#[tokio::test]
async fn a_bookmark_is_base_enough() {
    let (one, _two, from, to) = two_pools(192).await;
    if !has(from.features().bookmarks, "bookmarks") {
        return;
    }
    let (volume, first) = begin(&from).await;
    let main = one.dataset(&format!("v/{}", volume.to_hex()));
    let full = plan(&from, &to, volume, first).await;
    from.guard_send(&full, "peer").await.unwrap();
    transfer(&from, &to, &full).await.unwrap();
    from.keep_sent(&full, "peer").await.unwrap();
    let second = snapshot();
    zfs(&["snapshot", &name(&main, second)]);
    from.release(volume, first, "peer").await.unwrap();
    zfs(&["destroy", &name(&main, first)]);

    let ours = from.snapshots(volume).await.unwrap();
    let theirs: Vec<Have> = to.snapshots(volume).await.unwrap().iter().map(Have::from).collect();
    let bookmarks = from.bookmarks(volume).await.unwrap();
    let next = plan_send_from(&ours[0], &ours, &bookmarks, &theirs);
    assert!(matches!(next.kind, StreamKind::Incremental(base) if base.snapshot == first), "{next:?}");
    assert!(from.estimate(&next).await.unwrap().is_some());
    from.guard_send(&next, "peer").await.unwrap();
    assert_eq!(transfer(&from, &to, &next).await.unwrap(), next.guid);
    assert_eq!(guids(&from, volume).await, [full.guid, next.guid]);

    assert_eq!(from.prune_bookmarks(volume, &[next.guid]).await.unwrap(), 1);
    assert_eq!(from.prune_bookmarks(volume, &[next.guid]).await.unwrap(), 0);
    assert!(matches!(from.send(&next).await, Err(Error::WrongBase(_))), "the base is gone altogether");
}

#[tokio::test]
async fn holds_of_owners_that_are_gone_are_collected() {
    let (one, _two, from, _to) = two_pools(192).await;
    let (volume, first) = begin(&from).await;
    let main = one.dataset(&format!("v/{}", volume.to_hex()));
    let second = snapshot();
    zfs(&["snapshot", &name(&main, second)]);
    for (snapshot, owner) in [(first, "gone"), (second, "gone"), (second, "live")] {
        from.hold(volume, snapshot, owner).await.unwrap();
    }
    zfs(&["hold", "somebody", &name(&main, first)]);
    match from.collect_holds(&|owner| owner != "live").await {
        Err(Error::Unsupported { .. }) if !from.features().bookmarks => {
            println!("skipped: this machine's ZFS cannot list holds");
            from.release_all("gone").await.unwrap();
        }
        collected => assert_eq!(collected.unwrap(), 2),
    }
    let refs = |id| zfs(&["get", "-H", "-o", "value", "userrefs", &name(&main, id)]).trim().to_owned();
    assert_eq!((refs(first), refs(second)), ("1".to_owned(), "1".to_owned()), "others keep theirs");
    zfs(&["release", "somebody", &name(&main, first)]);
    from.release_all("live").await.unwrap();
    from.drop_volume(volume).await.unwrap();
}
