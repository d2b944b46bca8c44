//! A receiver on which somebody else did something: nothing is rolled back, overwritten or destroyed.

use ds_zfs::{Error, StreamKind};

use crate::{
    fixture::{noise, pair, property_of},
    support::{read, work, zfs},
};

#[tokio::test]
async fn written_to_by_hand() {
    let Some(pair) = pair("a received filesystem that somebody mounted and wrote to").await else { return };
    let (volume, _) = pair.volume().await;
    let main = pair.to.main(volume);
    let folder = tempfile::tempdir().unwrap();
    zfs(&["set", &format!("mountpoint={}", folder.path().display()), &main]);
    std::fs::write(folder.path().join("theirs"), "precious").unwrap();

    let second = pair.from.write(volume, "f", b"2");
    let error = pair.bring(volume, second).await.unwrap_err();
    assert!(matches!(error, Error::WrongBase(_)), "{error}");
    zfs(&["set", &format!("mountpoint={}", folder.path().display()), &main]);
    assert_eq!(read(folder.path(), "theirs"), b"precious");
    zfs(&["set", "mountpoint=none", &main]);
}

#[tokio::test]
async fn a_foreign_snapshot_at_the_receiver() {
    let Some(pair) = pair("a snapshot that another tool took of the received filesystem").await else {
        return;
    };
    let (volume, _) = pair.volume().await;
    let foreign = format!("{}@zfs-auto-snap_daily", pair.to.main(volume));
    zfs(&["snapshot", &foreign]);
    let guid = property_of(&foreign, "guid");
    let second = pair.from.write(volume, "f", b"2");
    // Nothing was written since the tip, so the stream lands on it; the other snapshot is neither ours nor in the way.
    pair.bring(volume, second).await.unwrap();
    let ours = pair.to.volumes.snapshots(volume).await.unwrap();
    assert!(ours.len() == 2 && ours[1].id == second && ours[1].tip, "{ours:?}");
    assert_eq!(property_of(&foreign, "guid"), guid);
}

#[tokio::test]
async fn an_advance_past_a_foreign_snapshot() {
    let Some(pair) =
        pair("an advance would destroy a snapshot of another tool: it says so, and goes on later").await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let (task, second) = work(&pair.from.volumes, volume, first, "f", b"2").await;
    pair.bring(volume, second).await.unwrap();
    let foreign = format!("{}@zfs-auto-snap_daily", pair.to.main(volume));
    zfs(&["snapshot", &foreign]);
    let error = pair.to.volumes.advance(volume, second).await.unwrap_err();
    assert!(matches!(&error, Error::HasDependents(why) if why.said.contains(&foreign)), "{error}");
    zfs(&["destroy", &foreign]);
    pair.to.volumes.advance(volume, second).await.unwrap();
    let line = pair.to.volumes.snapshots(volume).await.unwrap();
    assert_eq!(
        line.iter().map(|found| (found.id, found.main)).collect::<Vec<_>>(),
        [(first, true), (second, true)]
    );
    pair.from.volumes.drop_task(task).await.unwrap();
}

#[tokio::test]
async fn a_foreign_snapshot_at_the_sender() {
    let Some(pair) = pair("snapshots of other tools between ours at the sender stay there").await else {
        return;
    };
    let (volume, _) = pair.volume().await;
    let main = pair.from.main(volume);
    zfs(&["snapshot", &format!("{main}@syncoid_host_2026")]);
    pair.from.write(volume, "f", b"2");
    let third = pair.from.write(volume, "f", b"3");
    pair.bring(volume, third).await.unwrap();
    let there = zfs(&["list", "-H", "-t", "snapshot", "-o", "name", &pair.to.main(volume)]);
    assert!(there.lines().count() == 2 && !there.contains("syncoid"), "{there}");
    assert!(zfs(&["list", "-H", "-t", "snapshot", "-o", "name", &main]).contains("syncoid"));
}

#[tokio::test]
async fn both_sides_went_on() {
    let Some(pair) = pair("two commits on the same base: theirs stays the main line, ours is a branch").await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let theirs = pair.to.write(volume, "f", b"theirs");
    let (task, ours) = work(&pair.from.volumes, volume, first, "f", b"ours").await;
    assert!(matches!(pair.plan(volume, ours).await.kind, StreamKind::Clone(_)));
    pair.bring(volume, ours).await.unwrap();
    assert_eq!(pair.to.volumes.branches(volume).await.unwrap(), [ours]);
    let reading = pair.to.volumes.reading_clone(volume, theirs).await.unwrap();
    assert_eq!(read(&reading, "f"), b"theirs");
    // Moving to ours keeps theirs, as a branch.
    pair.to.volumes.drop_reading_clone(theirs).await.unwrap();
    pair.to.volumes.advance(volume, ours).await.unwrap();
    assert_eq!(pair.to.volumes.branches(volume).await.unwrap(), [theirs]);
    pair.from.volumes.drop_task(task).await.unwrap();
}

#[tokio::test]
async fn a_reader_during_a_receive() {
    let Some(pair) = pair("a receive onto a filesystem of which an older snapshot is being read").await
    else {
        return;
    };
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "f", &noise(100_000));
    pair.bring(volume, second).await.unwrap();
    let reading = pair.to.volumes.reading_clone(volume, second).await.unwrap();
    let open = std::fs::File::open(reading.join("f")).unwrap();
    let third = pair.from.write(volume, "f", b"3");
    pair.bring(volume, third).await.unwrap();
    assert_eq!(read(&reading, "f"), noise(100_000));
    assert!(matches!(pair.to.volumes.drop_reading_clone(second).await, Err(Error::Busy(_))));
    drop(open);
}
