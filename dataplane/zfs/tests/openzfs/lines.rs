//! Main lines, branches and advances on both sides, and what a stream is said to weigh.

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::StreamKind;

use crate::{
    fixture::{Side, bytes_of, noise, pair},
    support::{commit, read, snapshot, volume, work},
};

async fn line(side: &Side, volume: VolumeId) -> Vec<SnapshotId> {
    let found = side.volumes.snapshots(volume).await.unwrap();
    found.into_iter().filter(|found| found.main).map(|found| found.id).collect()
}

#[tokio::test]
async fn a_full_stream_makes_the_main_line() {
    let Some(pair) = pair("a full stream of a snapshot in the middle of a line").await else { return };
    let (volume, first) = (volume(), snapshot());
    pair.from.volumes.create(volume, first).await.unwrap();
    let second = pair.from.write(volume, "f", b"2");
    let third = pair.from.write(volume, "f", b"3");
    let plan = pair.plan(volume, second).await;
    assert_eq!(plan.kind, StreamKind::Full);
    assert_eq!(pair.bring(volume, second).await.unwrap(), plan.guid);
    assert_eq!(pair.bring(volume, third).await.unwrap(), pair.plan(volume, third).await.guid);
    assert_eq!(line(&pair.to, volume).await, [second, third]);
}

#[tokio::test]
async fn a_line_of_increments_with_gaps() {
    let Some(pair) = pair("seven increments, sent two at a time").await else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let mut newest = first;
    for n in 0..7_u8 {
        newest = commit(&pair.from.volumes, volume, newest, &format!("f{}", n % 4), &[n; 3000]).await;
        if n % 2 == 0 {
            pair.bring(volume, newest).await.unwrap();
        }
    }
    let there = pair.to.volumes.reading_clone(volume, newest).await.unwrap();
    assert_eq!(read(&there, "f3"), [3; 3000]);
    assert_eq!(line(&pair.to, volume).await.len(), 1 + 4);
}

#[tokio::test]
async fn a_clone_is_received_as_a_branch_and_advanced_to() {
    let Some(pair) = pair("a clone's stream, an advance on both sides, and the next increment").await else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let (task, second) = work(&pair.from.volumes, volume, first, "f", b"2").await;
    assert!(matches!(pair.plan(volume, second).await.kind, StreamKind::Clone(_)));
    pair.bring(volume, second).await.unwrap();
    assert_eq!(pair.to.volumes.branches(volume).await.unwrap(), [second]);
    for side in [&pair.from, &pair.to] {
        side.volumes.advance(volume, second).await.unwrap();
        assert_eq!(line(side, volume).await, [first, second]);
    }
    pair.from.volumes.drop_task(task).await.unwrap();
    let third = commit(&pair.from.volumes, volume, second, "f", b"3").await;
    assert!(matches!(pair.plan(volume, third).await.kind, StreamKind::Incremental(_)));
    pair.bring(volume, third).await.unwrap();
    assert_eq!(line(&pair.to, volume).await, [first, second, third]);
}

#[tokio::test]
async fn branches_of_branches_are_received_and_advanced_to() {
    let Some(pair) = pair("a clone of a clone, of which the outer is advanced to").await else { return };
    let (volume, first) = pair.volume().await;
    let (inner_task, inner) = work(&pair.from.volumes, volume, first, "inner", b"1").await;
    let (outer_task, outer) = work(&pair.from.volumes, volume, inner, "outer", b"2").await;
    for result in [inner, outer] {
        assert!(matches!(pair.plan(volume, result).await.kind, StreamKind::Clone(_)));
        pair.bring(volume, result).await.unwrap();
    }
    for side in [&pair.to, &pair.from] {
        side.volumes.advance(volume, outer).await.unwrap();
        assert_eq!(line(side, volume).await, [first, inner, outer]);
    }
    for task in [outer_task, inner_task] {
        pair.from.volumes.drop_task(task).await.unwrap();
    }
}

#[tokio::test]
async fn the_estimate_is_near_the_size() {
    let Some(pair) = pair("what `send -n` says against what is sent: within 2 % and 256 KiB").await else {
        return;
    };
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "big", &noise(6_000_000));
    let (task, third) = work(&pair.from.volumes, volume, second, "more", &noise(2_000_000)).await;
    for target in [second, third] {
        let plan = pair.plan(volume, target).await;
        let estimate = pair.from.volumes.estimate(&plan).await.unwrap().expect("OpenZFS can tell");
        let size = bytes_of(&pair.from.volumes, &plan).await.len() as u64;
        assert!(estimate.abs_diff(size) < size / 50 + (256 << 10), "{estimate} against {size}");
        pair.bring(volume, target).await.unwrap();
    }
    pair.from.volumes.drop_task(task).await.unwrap();
}
