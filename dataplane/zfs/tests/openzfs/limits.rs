//! A receiver that is full, limited or read-only: it says so, keeps what it has, and goes on once there is room.

use ds_zfs::Error;

use crate::{
    fixture::{noise, pair, pair_of_its_own, property_of},
    support::{read, zfs},
};

#[tokio::test]
async fn a_quota_on_the_volume() {
    let Some(pair) = pair("a stream that does not fit in the receiver's quota").await else { return };
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "f", &noise(8 << 20));
    let main = pair.to.main(volume);
    zfs(&["set", "quota=3M", &main]);
    let error = pair.bring(volume, second).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace(_)) && !error.is_retryable(), "{error}");
    assert_eq!(pair.to.volumes.snapshots(volume).await.unwrap().len(), 1);
    zfs(&["set", "quota=none", &main]);
    pair.bring(volume, second).await.unwrap();
}

#[tokio::test]
async fn a_full_pool_that_gets_room() {
    let Some(pair) =
        pair_of_its_own("a pool without room for a stream, in which other data is then removed").await
    else {
        return;
    };
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "f", &noise(8 << 20));
    let filler = format!("{}/filler", pair.to.pool.name);
    zfs(&["create", "-o", "mountpoint=none", &filler]);
    let free: u64 = property_of(&filler, "available").parse().unwrap();
    zfs(&["set", &format!("reservation={}", free - (4 << 20)), &filler]);
    let error = pair.bring(volume, second).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace(_)), "{error}");
    assert_eq!(pair.to.volumes.snapshots(volume).await.unwrap().len(), 1);
    zfs(&["destroy", &filler]);
    pair.bring(volume, second).await.unwrap();
}

#[tokio::test]
async fn a_read_only_receiver() {
    let Some(pair) = pair("a receiver whose volumes are read-only for everybody else").await else { return };
    let (volume, _) = pair.volume().await;
    zfs(&["set", "readonly=on", &pair.to.main(volume)]);
    let second = pair.from.write(volume, "f", b"2");
    pair.bring(volume, second).await.unwrap();
    let reading = pair.to.volumes.reading_clone(volume, second).await.unwrap();
    assert_eq!(read(&reading, "f"), b"2");
}
