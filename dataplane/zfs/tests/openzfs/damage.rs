//! Streams that are cut, changed, forged or of another kind than planned: refused, and nothing of them stays.

use ds_domain::ids::VolumeId;
use ds_zfs::{BEGIN_BYTES, BadBeginning, Error, SendPlan, SnapshotGuid};

use crate::{
    fixture::{Pair, bytes_of, noise, pair, receive_bytes, sent},
    support::zfs,
};

/// An increment of some 2 MB that is ready to be received.
async fn increment(pair: &Pair) -> (VolumeId, SendPlan, Vec<u8>) {
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "f", &noise(2_000_000));
    let plan = pair.plan(volume, second).await;
    let stream = bytes_of(&pair.from.volumes, &plan).await;
    (volume, plan, stream)
}

fn nothing_stays(pair: &Pair, volume: VolumeId) {
    let main = pair.to.main(volume);
    let here = zfs(&["list", "-H", "-r", "-t", "all", "-o", "name", &main]);
    assert_eq!(here.lines().count(), 2, "the main line and its first snapshot: {here}");
}

#[tokio::test]
async fn cut_anywhere() {
    let Some(pair) = pair("a stream that ends early, at five points").await else { return };
    let (volume, plan, stream) = increment(&pair).await;
    let points = (0..4).map(|quarter| BEGIN_BYTES + quarter * (stream.len() - BEGIN_BYTES) / 4);
    for end in points.chain([stream.len() - 1]) {
        let error = receive_bytes(&pair.to.volumes, &plan, stream[..end].to_vec()).await.unwrap_err();
        assert!(error.is_retryable(), "{end} of {}: {error}", stream.len());
        nothing_stays(&pair, volume);
    }
    receive_bytes(&pair.to.volumes, &plan, stream).await.unwrap();
}

#[tokio::test]
async fn ended_before_its_last_record() {
    let Some(pair) = pair("a stream of whole records that lacks the one that ends it").await else { return };
    let (volume, plan, stream) = increment(&pair).await;
    let all_but_the_last = stream[..stream.len() - BEGIN_BYTES].to_vec();
    let error = receive_bytes(&pair.to.volumes, &plan, all_but_the_last).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    nothing_stays(&pair, volume);
}

#[tokio::test]
async fn changed_anywhere() {
    let Some(pair) = pair("one bit changed, at five points behind the first record").await else { return };
    let (volume, plan, stream) = increment(&pair).await;
    for fifth in 0..5 {
        let mut changed = stream.clone();
        changed[BEGIN_BYTES + 20 + fifth * (stream.len() - 2 * BEGIN_BYTES) / 5] ^= 0x10;
        let error = receive_bytes(&pair.to.volumes, &plan, changed).await.unwrap_err();
        assert!(error.is_retryable(), "{fifth} fifths: {error}");
        nothing_stays(&pair, volume);
    }
}

#[tokio::test]
async fn a_piece_missing_in_the_middle() {
    let Some(pair) = pair("a stream without some bytes, and one with some twice").await else { return };
    let (volume, plan, stream) = increment(&pair).await;
    let middle = stream.len() / 2;
    let without = [&stream[..middle], &stream[middle + 4096..]].concat();
    let twice = [&stream[..middle], &stream[middle - 4096..]].concat();
    for broken in [without, twice] {
        let error = receive_bytes(&pair.to.volumes, &plan, broken).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        nothing_stays(&pair, volume);
    }
}

#[tokio::test]
async fn a_forged_guid() {
    let Some(pair) = pair("a first record that claims the planned GUID for another snapshot").await else {
        return;
    };
    let (volume, plan, mut stream) = increment(&pair).await;
    let lie = SendPlan { guid: SnapshotGuid(plan.guid.0 ^ 1), ..plan };
    let error = receive_bytes(&pair.to.volumes, &lie, stream.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { source: BadBeginning::Snapshot { .. }, .. }), "{error}");
    // Changed to what the plan says, it gets past the first record, and no further than its checksum.
    stream[40..48].copy_from_slice(&lie.guid.0.to_le_bytes());
    let error = receive_bytes(&pair.to.volumes, &lie, stream).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    nothing_stays(&pair, volume);
}

#[tokio::test]
async fn from_another_base() {
    let Some(pair) = pair("an increment from another snapshot than the planned base").await else { return };
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "f", b"2");
    let third = pair.from.write(volume, "f", b"3");
    let main = pair.from.main(volume);
    let at = |id: ds_domain::ids::SnapshotId| format!("{main}@{}", id.to_hex());
    let plan = pair.plan(volume, third).await;
    for other in [sent(&["-i", &at(second), &at(third)]), sent(&[&at(third)])] {
        let error = receive_bytes(&pair.to.volumes, &plan, other).await.unwrap_err();
        assert!(matches!(error, Error::Refused { source: BadBeginning::Base { .. }, .. }), "{error}");
    }
    nothing_stays(&pair, volume);
}

#[tokio::test]
async fn packages() {
    let Some(pair) =
        pair("streams of `send -R`, `-p`, `-b` and `-I`, which may carry properties and more snapshots")
            .await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    pair.from.write(volume, "f", b"2");
    let third = pair.from.write(volume, "f", b"3");
    let main = pair.from.main(volume);
    zfs(&["set", "user:evil=yes", &main]);
    let at = |id: ds_domain::ids::SnapshotId| format!("{main}@{}", id.to_hex());
    let plan = pair.plan(volume, third).await;
    let (base, target) = (at(first), at(third));
    for flags in [&["-R", "-i"][..], &["-p", "-i"], &["-b", "-i"], &["-I"], &["-R", "-I"]] {
        let package = sent(&[flags, &[base.as_str(), target.as_str()]].concat());
        let error = receive_bytes(&pair.to.volumes, &plan, package).await.unwrap_err();
        assert!(matches!(error, Error::Refused { source: BadBeginning::Compound, .. }), "{flags:?}: {error}");
        nothing_stays(&pair, volume);
    }
}

#[tokio::test]
async fn block_devices() {
    let Some(pair) = pair("the stream of a volume of blocks is no filesystem's").await else { return };
    let (volume, _) = pair.volume().await;
    let second = pair.from.write(volume, "f", b"2");
    let plan = pair.plan(volume, second).await;
    let device = format!("{}/device", pair.from.pool.name);
    zfs(&["create", "-s", "-V", "1M", "-o", "volmode=none", &device]);
    zfs(&["snapshot", &format!("{device}@s")]);
    let mut stream = sent(&[&format!("{device}@s")]);
    // As if it were the planned one.
    stream[40..48].copy_from_slice(&plan.guid.0.to_le_bytes());
    stream[48..56].copy_from_slice(&plan.kind.base().unwrap().guid.0.to_le_bytes());
    let error = receive_bytes(&pair.to.volumes, &plan, stream).await.unwrap_err();
    assert!(matches!(error, Error::Refused { source: BadBeginning::NoFilesystem, .. }), "{error}");
    zfs(&["destroy", "-r", &device]);
    nothing_stays(&pair, volume);
}
