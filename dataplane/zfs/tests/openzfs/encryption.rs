//! Encrypted filesystems: the adapter on an encrypted root, and raw streams by hand, with their hazards.

use std::path::PathBuf;

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::{Encryption, Error, NoMode, SnapshotGuid, StreamMode, Volumes};

use crate::{
    fixture::{Pair, Scratch, Side, noise, pair, property_of, received, refused, sent},
    support::{commit, plan, read, snapshot, transfer, volume, work, zfs},
};

/// A file with a raw key of 32 bytes, all the same.
fn key(side: &Side, byte: u8) -> PathBuf {
    let file = side.pool.folder.path().join(format!("key{byte}"));
    std::fs::write(&file, [byte; 32]).unwrap();
    file
}

fn encrypted(side: &Side, byte: u8) -> Scratch {
    let location = format!("keylocation=file://{}", key(side, byte).display());
    Scratch::create(side, &["-o", "encryption=aes-128-gcm", "-o", "keyformat=raw", "-o", &location])
}

/// An encrypted filesystem with two snapshots, and a raw copy of the first whose key is not loaded.
fn raw_copy(pair: &Pair) -> (Scratch, Scratch) {
    let (fs, copy) = (encrypted(&pair.from, 1), Scratch::absent(&pair.to));
    fs.write("f", &noise(500_000));
    fs.snapshot("1");
    received(&["-u", &copy.name], &sent(&["-w", &fs.at("1")])).unwrap();
    fs.write("g", &noise(500_000));
    fs.snapshot("2");
    (fs, copy)
}

fn load_key(copy: &Scratch, side: &Side, byte: u8) {
    zfs(&["load-key", "-L", &format!("file://{}", key(side, byte).display()), &copy.name]);
}

/// Volumes below an encrypted root at the sender's side.
struct Sealed {
    /// Outlives the volumes on it.
    _root: Scratch,
    volumes: Volumes,
    volume: VolumeId,
    first: SnapshotId,
}

impl Sealed {
    async fn create(side: &Side, byte: u8) -> Self {
        let root = encrypted(side, byte);
        let volumes = Volumes::open(&format!("{}/store", root.name), &root.folder.join("mnt")).await.unwrap();
        let (volume, first) = (volume(), snapshot());
        volumes.create(volume, first).await.unwrap();
        Self { _root: root, volumes, volume, first }
    }

    async fn commit(&self, base: SnapshotId, file: &str, content: &[u8]) -> SnapshotId {
        commit(&self.volumes, self.volume, base, file, content).await
    }

    /// Brings a snapshot to `to` raw.
    async fn bring(&self, to: &Volumes, snapshot: SnapshotId) -> ds_zfs::Result<SnapshotGuid> {
        let plan = plan(&self.volumes, to, self.volume, snapshot).await;
        transfer(&self.volumes, to, &plan.with_mode(StreamMode::Raw)).await
    }
}

#[tokio::test]
async fn a_replica_without_the_key() {
    let Some(pair) =
        pair("volumes on an encrypted root, raw to a side that has no key: full, increment, clone, advance")
            .await
    else {
        return;
    };
    let (sealed, there) = (Sealed::create(&pair.from, 9).await, &pair.to.volumes);
    let (volume, first) = (sealed.volume, sealed.first);
    let second = sealed.commit(first, "f", &noise(200_000)).await;
    let agreed =
        StreamMode::negotiate(Encryption::On, None, sealed.volumes.features(), &there.features().streams());
    assert_eq!(agreed, Ok(StreamMode::Raw));
    for target in [first, second] {
        sealed.bring(there, target).await.unwrap();
    }
    let main = pair.to.main(volume);
    assert_eq!(property_of(&main, "keystatus"), "unavailable");
    assert_eq!(property_of(&main, "encryptionroot"), main);

    // A branch is promoted, and the line goes on, all without a key.
    let (task, third) = work(&sealed.volumes, volume, second, "g", b"3").await;
    sealed.bring(there, third).await.unwrap();
    for volumes in [&sealed.volumes, there] {
        volumes.advance(volume, third).await.unwrap();
    }
    sealed.volumes.drop_task(task).await.unwrap();
    let fourth = sealed.commit(third, "h", b"4").await;
    sealed.bring(there, fourth).await.unwrap();
    let line = there.snapshots(volume).await.unwrap();
    assert_eq!(
        line.iter().map(|s| (s.id, s.main)).collect::<Vec<_>>(),
        [first, second, third, fourth].map(|id| (id, true))
    );

    // With the key, it is all there.
    let location = format!("file://{}", key(&pair.to, 9).display());
    zfs(&["load-key", "-L", &location, &property_of(&main, "encryptionroot")]);
    let reading = there.reading_clone(volume, fourth).await.unwrap();
    assert_eq!(
        (read(&reading, "f"), read(&reading, "g"), read(&reading, "h")),
        (noise(200_000), b"3".to_vec(), b"4".to_vec())
    );
    there.drop_volume(volume).await.unwrap();
}

#[tokio::test]
async fn decrypting_is_refused_where_it_damages() {
    let Some(pair) =
        pair("a plain stream of an encrypted volume, from an OpenZFS that damages it by that").await
    else {
        return;
    };
    let sealed = Sealed::create(&pair.from, 8).await;
    let plain = plan(&sealed.volumes, &pair.to.volumes, sealed.volume, sealed.first).await;
    let outcome = sealed.volumes.send(&plain).await;
    if sealed.volumes.features().decrypts_safely() {
        outcome.unwrap().process.kill().await.unwrap();
    } else {
        assert!(matches!(outcome, Err(Error::NoMode { source: NoMode::UnsafeDecryption { .. }, .. })));
    }
}

#[tokio::test]
async fn a_replica_that_took_another_key() {
    let Some(pair) =
        pair("a replica that was made to inherit its parent's key takes no raw stream any more").await
    else {
        return;
    };
    let (sealed, home) = (Sealed::create(&pair.from, 7).await, encrypted(&pair.to, 6));
    let there = Volumes::open(&format!("{}/store", home.name), &home.folder.join("mnt")).await.unwrap();
    sealed.bring(&there, sealed.first).await.unwrap();
    let main = format!("{}/store/v/{}", home.name, sealed.volume.to_hex());
    zfs(&["load-key", "-L", &format!("file://{}", key(&pair.to, 7).display()), &main]);
    zfs(&["change-key", "-i", &main]);
    let second = sealed.commit(sealed.first, "f", b"2").await;
    let error = sealed.bring(&there, second).await.unwrap_err();
    assert!(matches!(&error, Error::OtherKey { root, .. } if *root == home.name), "{error}");
    assert_eq!(there.snapshots(sealed.volume).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_plain_send_needs_the_key() {
    let Some(pair) = pair("a plain stream of an encrypted filesystem whose key is not loaded").await else {
        return;
    };
    let fs = encrypted(&pair.from, 2);
    fs.write("f", b"secret");
    let one = fs.snapshot("1");
    zfs(&["unmount", &fs.name]);
    zfs(&["unload-key", &fs.name]);
    let said = refused(&["send", &one]);
    assert!(said.contains("key"), "{said}");
    assert!(
        !sent(&["-w", &one]).windows(6).any(|bytes| bytes == b"secret"),
        "raw goes without, and stays encrypted"
    );
}

#[tokio::test]
async fn raw_full_and_increment_without_a_key() {
    let Some(pair) = pair("raw streams at a receiver that never has the key, read after it is given").await
    else {
        return;
    };
    let (fs, copy) = raw_copy(&pair);
    received(&["-u", &copy.name], &sent(&["-w", "-i", &fs.at("1"), &fs.at("2")])).unwrap();
    assert_eq!(copy.property("keystatus"), "unavailable");
    assert_eq!(copy.property("encryptionroot"), copy.name);
    assert_eq!(property_of(&copy.at("2"), "guid"), property_of(&fs.at("2"), "guid"));
    refused(&["mount", &copy.name]);
    load_key(&copy, &pair.to, 1);
    let folder = copy.mounted();
    assert_eq!((read(folder, "f"), read(folder, "g")), (noise(500_000), noise(500_000)));
}

#[tokio::test]
async fn a_chain_is_raw_or_not() {
    let Some(pair) =
        pair("a plain increment onto a raw copy, and a raw one onto a plain copy, are refused").await
    else {
        return;
    };
    let (fs, copy) = raw_copy(&pair);
    let plain = sent(&["-i", &fs.at("1"), &fs.at("2")]);
    received(&["-u", &copy.name], &plain).unwrap_err();
    let other = Scratch::absent(&pair.to);
    received(&["-u", &other.name], &sent(&[&fs.at("1")])).unwrap();
    received(&["-u", &other.name], &sent(&["-w", "-i", &fs.at("1"), &fs.at("2")])).unwrap_err();
    received(&["-u", &other.name], &plain).unwrap();
    for (kept, snapshots) in [(&copy, 1), (&other, 2)] {
        let there = zfs(&["list", "-H", "-t", "snapshot", "-o", "name", &kept.name]);
        assert_eq!(there.lines().count(), snapshots, "{there}");
    }
}

#[tokio::test]
async fn the_sender_changes_its_key() {
    let Some(pair) =
        pair("a raw increment after `change-key` at the sender brings the new wrapping with it").await
    else {
        return;
    };
    let (fs, copy) = raw_copy(&pair);
    zfs(&["change-key", "-o", &format!("keylocation=file://{}", key(&pair.from, 3).display()), &fs.name]);
    let three = fs.snapshot("3");
    received(&["-u", &copy.name], &sent(&["-w", "-i", &fs.at("1"), &three])).unwrap();
    refused(&["load-key", "-L", &format!("file://{}", key(&pair.to, 1).display()), &copy.name]);
    load_key(&copy, &pair.to, 3);
    assert_eq!(read(copy.mounted(), "g"), noise(500_000));
}

#[tokio::test]
async fn the_receiver_changes_its_key() {
    let Some(pair) =
        pair("a raw increment after `change-key` at the receiver undoes it: the sender's key counts again")
            .await
    else {
        return;
    };
    let (fs, copy) = raw_copy(&pair);
    load_key(&copy, &pair.to, 1);
    zfs(&["change-key", "-o", &format!("keylocation=file://{}", key(&pair.to, 4).display()), &copy.name]);
    zfs(&["unload-key", &copy.name]);
    received(&["-u", &copy.name], &sent(&["-w", "-i", &fs.at("1"), &fs.at("2")])).unwrap();
    // Whoever changed the key of a replica finds it changed back. This is the hazard for which a caller compares keys first.
    refused(&["load-key", "-L", &format!("file://{}", key(&pair.to, 4).display()), &copy.name]);
    load_key(&copy, &pair.to, 1);
    assert_eq!(read(copy.mounted(), "g"), noise(500_000));
}

#[tokio::test]
async fn a_raw_stream_is_resumed() {
    let Some(pair) = pair("a raw increment broken off and resumed without a key on either side").await else {
        return;
    };
    let (fs, copy) = raw_copy(&pair);
    zfs(&["unmount", &fs.name]);
    zfs(&["unload-key", &fs.name]);
    let increment = sent(&["-w", "-i", &fs.at("1"), &fs.at("2")]);
    received(&["-s", "-u", &copy.name], &increment[..increment.len() / 2]).unwrap_err();
    let token = copy.property("receive_resume_token");
    assert!(zfs(&["send", "-nvt", &token]).contains("rawok"));
    received(&["-s", "-u", &copy.name], &sent(&["-t", &token])).unwrap();
    assert_eq!(property_of(&copy.at("2"), "guid"), property_of(&fs.at("2"), "guid"));
}

#[tokio::test]
async fn damage_in_a_raw_stream_is_noticed_without_a_key() {
    let Some(pair) = pair("a bit changed in a raw increment, at a receiver that cannot decrypt it").await
    else {
        return;
    };
    let (fs, copy) = raw_copy(&pair);
    let mut increment = sent(&["-w", "-i", &fs.at("1"), &fs.at("2")]);
    let middle = increment.len() / 2;
    increment[middle] ^= 1;
    let said = received(&["-u", &copy.name], &increment).unwrap_err();
    assert!(said.contains("checksum mismatch"), "{said}");
    refused(&["list", &copy.at("2")]);
}
