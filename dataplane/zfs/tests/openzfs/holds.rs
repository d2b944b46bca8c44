//! Holds: each owner's own, kept across advances, exports and crashes, and never anybody else's.

use ds_zfs::Error;

use crate::{
    fixture::{pair, pair_of_its_own, property_of},
    support::{work, zfs},
};

#[tokio::test]
async fn owners_are_told_apart() {
    let Some(pair) = pair("two owners hold one snapshot; what is let go of is one's own").await else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let volumes = &pair.to.volumes;
    let held = format!("{}@{}", pair.to.main(volume), first.to_hex());
    for owner in ["owner:a", "owner:b", "owner:b"] {
        volumes.hold(volume, first, owner).await.unwrap();
    }
    assert_eq!(property_of(&held, "userrefs"), "2");
    volumes.release(volume, first, "owner:a").await.unwrap();
    volumes.release(volume, first, "owner:a").await.unwrap();
    volumes.release(volume, first, "owner").await.unwrap();
    let tags = zfs(&["holds", "-H", &held]);
    assert!(tags.lines().count() == 1 && tags.contains("dotstream:owner:b"), "{tags}");
    volumes.release(volume, first, "owner:b").await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_is_let_go_of() {
    let Some(pair) = pair("all holds of one owner, on several volumes, are collected; others' stay").await
    else {
        return;
    };
    let mut held = Vec::new();
    for owner in ["crashed", "crashed", "other"] {
        let (volume, first) = pair.volume().await;
        pair.to.volumes.hold(volume, first, owner).await.unwrap();
        held.push(format!("{}@{}", pair.to.main(volume), first.to_hex()));
    }
    pair.to.volumes.release_all("crashed").await.unwrap();
    let counts: Vec<_> = held.iter().map(|name| property_of(name, "userrefs")).collect();
    assert_eq!(counts, ["0", "0", "1"]);
}

#[tokio::test]
async fn foreign_holds_are_never_let_go_of() {
    let Some(pair) =
        pair("a hold of another tool on the tip: streams land, and the volume cannot be dropped").await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let held = format!("{}@{}", pair.to.main(volume), first.to_hex());
    zfs(&["hold", "zrepl_last_received", &held]);
    pair.to.volumes.release_all("zrepl_last_received").await.unwrap();
    let second = pair.from.write(volume, "f", b"2");
    pair.bring(volume, second).await.unwrap();
    let error = pair.to.volumes.drop_volume(volume).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert_eq!(property_of(&held, "userrefs"), "1");
    zfs(&["release", "zrepl_last_received", &held]);
}

#[tokio::test]
async fn a_hold_goes_with_an_advance() {
    let Some(pair) = pair("a snapshot held on a clone is held on the main line after the advance").await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let volumes = &pair.from.volumes;
    let (task, second) = work(volumes, volume, first, "f", b"2").await;
    for snapshot in [first, second] {
        volumes.hold(volume, snapshot, "transfer").await.unwrap();
    }
    volumes.advance(volume, second).await.unwrap();
    volumes.drop_task(task).await.unwrap();
    for snapshot in [first, second] {
        let name = format!("{}@{}", pair.from.main(volume), snapshot.to_hex());
        assert_eq!(property_of(&name, "userrefs"), "1");
        volumes.release(volume, snapshot, "transfer").await.unwrap();
        assert_eq!(property_of(&name, "userrefs"), "0");
    }
}

#[tokio::test]
async fn a_held_branch_stays() {
    let Some(pair) = pair("a branch whose snapshot is held cannot be dropped until it is let go of").await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let (task, result) = work(&pair.from.volumes, volume, first, "f", b"2").await;
    pair.bring(volume, result).await.unwrap();
    let volumes = &pair.to.volumes;
    volumes.hold(volume, result, "transfer").await.unwrap();
    let error = volumes.drop_branch(volume, result).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.is_retryable(), "{error}");
    assert_eq!(volumes.branches(volume).await.unwrap(), [result]);
    volumes.release(volume, result, "transfer").await.unwrap();
    volumes.drop_branch(volume, result).await.unwrap();
    pair.from.volumes.drop_task(task).await.unwrap();
}

#[tokio::test]
async fn holds_survive_an_export() {
    let Some(pair) = pair_of_its_own("a hold is there after the pool was exported and imported").await else {
        return;
    };
    let (volume, first) = pair.volume().await;
    pair.to.volumes.hold(volume, first, "transfer").await.unwrap();
    let pool = &pair.to.pool;
    let exported = std::process::Command::new("zpool").args(["export", &pool.name]).status().unwrap();
    assert!(exported.success());
    ds_zfs::import(&pool.name, pool.folder.path()).await.unwrap();
    let reopened = pool.volumes().await;
    assert!(matches!(reopened.drop_volume(volume).await, Err(Error::Busy(_))));
    reopened.release_all("transfer").await.unwrap();
    reopened.drop_volume(volume).await.unwrap();
}
