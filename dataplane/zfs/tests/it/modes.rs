//! One mode per chain of streams, on a ZFS that knows several.

use crate::support::{begin, commit, has, noise, plan, read, snapshot, transfer, two_pools, volume, zfs};
use ds_zfs::{Encryption, Error, MODE_PROPERTY, NoMode, SendPlan, StreamKind, StreamMode, Volumes};

fn mode_of(filesystem: &str) -> String {
    zfs(&["get", "-H", "-o", "value", MODE_PROPERTY, filesystem]).trim().to_owned()
}

async fn negotiated(from: &Volumes, to: &Volumes, plan: SendPlan) -> SendPlan {
    let (encryption, chain) = from.sendable(&plan).await.unwrap();
    let mode = StreamMode::negotiate(encryption, chain, from.features(), &to.features().streams()).unwrap();
    plan.with_mode(mode)
}

#[tokio::test]
async fn a_chain_goes_on_as_it_began() {
    let (_one, two, from, to) = two_pools(256).await;
    if !has(from.features().raw, "flags of zfs send") {
        return;
    }
    let (volume, first) = begin(&from).await;
    let second = commit(&from, volume, first, "a", &b"x".repeat(400_000)).await;
    let full = negotiated(&from, &to, plan(&from, &to, volume, second).await).await;
    assert_eq!(full.mode.to_string(), "Lce");
    transfer(&from, &to, &full).await.unwrap();
    let main = two.dataset(&format!("v/{}", volume.to_hex()));
    assert_eq!(mode_of(&main), "Lce");

    let third = commit(&from, volume, second, "b", &noise(10_000)).await;
    let plain = plan(&from, &to, volume, third).await;
    assert!(matches!(plain.kind, StreamKind::Incremental(_)));
    let error = to.receive(&plain).await.unwrap_err();
    assert!(matches!(error, Error::OtherMode { found, .. } if found == full.mode), "{error}");
    assert!(error.is_retryable());
    transfer(&from, &to, &plain.with_mode(full.mode)).await.unwrap();

    // A task's clone that becomes the main line goes on with it, and back as well.
    let fourth = commit(&to, volume, third, "c", b"4").await;
    assert_eq!(mode_of(&main), "Lce");
    let back = plan(&to, &from, volume, fourth).await;
    assert!(matches!(to.send(&back).await, Err(Error::OtherMode { .. })));
    let back = negotiated(&to, &from, back).await;
    assert_eq!(back.mode, full.mode);
    transfer(&to, &from, &back).await.unwrap();
    let folder = from.reading_clone(volume, fourth).await.unwrap();
    assert_eq!((read(&folder, "a").len(), read(&folder, "c")), (400_000, b"4".to_vec()));
}

#[tokio::test]
async fn an_encrypted_volume_travels_raw() {
    let (one, two, from, to) = two_pools(256).await;
    if !has(from.features().raw, "raw streams") {
        return;
    }
    let (volume, first, second) = (volume(), snapshot(), snapshot());
    let key = one.folder.path().join("key");
    std::fs::write(&key, "a passphrase of a test").unwrap();
    let main = one.dataset(&format!("v/{}", volume.to_hex()));
    let location = format!("keylocation=file://{}", key.display());
    zfs(&["create", "-o", "encryption=on", "-o", "keyformat=passphrase", "-o", &location, &main]);
    zfs(&["snapshot", &format!("{main}@{}", first.to_hex())]);
    let full = plan(&from, &to, volume, first).await;
    assert_eq!(from.sendable(&full).await.unwrap(), (Encryption::On, None));
    if !from.features().decrypts_safely() {
        let error = from.send(&full).await.unwrap_err();
        let refused = matches!(&error, Error::NoMode { source: NoMode::UnsafeDecryption { .. }, .. });
        assert!(refused, "{error}");
    }
    let full = negotiated(&from, &to, full).await;
    assert_eq!(full.mode, StreamMode::Raw);
    transfer(&from, &to, &full).await.unwrap();

    zfs(&["snapshot", &format!("{main}@{}", second.to_hex())]);
    let next = plan(&from, &to, volume, second).await;
    assert!(matches!(to.receive(&next).await, Err(Error::OtherMode { found: StreamMode::Raw, .. })));
    let next = negotiated(&from, &to, next).await;
    transfer(&from, &to, &next).await.unwrap();
    let replica = two.dataset(&format!("v/{}", volume.to_hex()));
    let shown = zfs(&["get", "-H", "-o", "value", "keystatus,dotstream:stream", &replica]);
    assert_eq!(shown.lines().collect::<Vec<_>>(), ["unavailable", "raw"]);
}
