//! Modes of streams: what two machines agree on, that it arrives, and that a chain goes on as it began.

use std::os::unix::fs::FileExt;

use ds_zfs::{Encryption, Error, MODE_PROPERTY, SendFlags, StreamMode};

use crate::{
    fixture::{noise, pair, property_of},
    support::{commit, plan, read, snapshot, transfer, volume, work},
};

const ALL: StreamMode =
    StreamMode::Decrypted(SendFlags { large_blocks: true, compressed: true, embedded: true });

#[tokio::test]
async fn two_of_a_kind_agree_on_everything() {
    let Some(pair) = pair("what two OpenZFS agree on: -L, -c and -e").await else { return };
    let (from, to) = (pair.from.volumes.features(), pair.to.volumes.features());
    assert_eq!(StreamMode::negotiate(Encryption::Off, None, from, &to.streams()), Ok(ALL));
    assert_eq!(
        StreamMode::negotiate(Encryption::Off, Some(StreamMode::PLAIN), from, &to.streams()),
        Ok(StreamMode::PLAIN)
    );
}

#[tokio::test]
async fn every_mode_arrives() {
    let Some(pair) =
        pair("full, increment and patch in each mode, of large, compressed and tiny blocks").await
    else {
        return;
    };
    let flags = |large_blocks, compressed, embedded| {
        StreamMode::Decrypted(SendFlags { large_blocks, compressed, embedded })
    };
    for mode in [
        flags(true, false, false),
        flags(false, true, false),
        flags(false, false, true),
        ALL,
        StreamMode::Raw,
    ] {
        let (volume, first) = (volume(), snapshot());
        pair.from.volumes.create(volume, first).await.unwrap();
        let properties = ["recordsize=1M", "compression=zstd"];
        let text = "a line that repeats\n".repeat(60_000);
        let second = pair.from.grow(volume, &properties, |home| {
            std::fs::write(home.join("large"), noise(2_500_000)).unwrap();
            std::fs::write(home.join("text"), &text).unwrap();
            std::fs::write(home.join("tiny"), "123").unwrap();
        });
        let third = pair.from.grow(volume, &properties, |home| {
            let large = std::fs::File::options().write(true).open(home.join("large")).unwrap();
            large.write_all_at(b"patch", 1_500_000).unwrap();
        });
        for target in [second, third] {
            pair.bring_in(mode, volume, target).await.unwrap();
        }
        let there = pair.to.volumes.reading_clone(volume, third).await.unwrap();
        let mut large = noise(2_500_000);
        large[1_500_000..1_500_005].copy_from_slice(b"patch");
        assert!(read(&there, "large") == large, "{mode}");
        assert_eq!(
            (read(&there, "text"), read(&there, "tiny")),
            (text.into_bytes(), b"123".to_vec()),
            "{mode}"
        );
        assert_eq!(property_of(&pair.to.main(volume), MODE_PROPERTY), mode.to_string());
    }
}

#[tokio::test]
async fn a_chain_goes_on_as_it_began() {
    let Some(pair) =
        pair("an increment in another mode than the volume was received in, there and on its way back").await
    else {
        return;
    };
    let (volume, first) = (volume(), snapshot());
    pair.from.volumes.create(volume, first).await.unwrap();
    pair.bring_in(ALL, volume, first).await.unwrap();
    let second = pair.from.write(volume, "f", b"2");
    let error = pair.bring(volume, second).await.unwrap_err();
    assert!(matches!(error, Error::OtherMode { planned: StreamMode::PLAIN, found: ALL, .. }), "{error}");
    pair.bring_in(ALL, volume, second).await.unwrap();

    // A task's clone of what was received takes the mode with it, and what it becomes is sent back so.
    let third = commit(&pair.to.volumes, volume, second, "f", b"3").await;
    let (from, to) = (&pair.to.volumes, &pair.from.volumes);
    let back = plan(from, to, volume, third).await;
    assert_eq!(from.sendable(&back).await.unwrap(), (Encryption::Off, Some(ALL)));
    let error = from.send(&back).await.unwrap_err();
    assert!(matches!(error, Error::OtherMode { found: ALL, .. }), "{error}");
    transfer(from, to, &back.with_mode(ALL)).await.unwrap();
}

#[tokio::test]
async fn a_clone_goes_on_as_its_origin() {
    let Some(pair) = pair("a clone's stream in another mode than its origin was received in").await else {
        return;
    };
    let (volume, first) = (volume(), snapshot());
    pair.from.volumes.create(volume, first).await.unwrap();
    pair.bring_in(ALL, volume, first).await.unwrap();
    let (task, result) = work(&pair.from.volumes, volume, first, "f", b"2").await;
    assert!(matches!(pair.bring(volume, result).await, Err(Error::OtherMode { .. })));
    pair.bring_in(ALL, volume, result).await.unwrap();
    pair.to.volumes.advance(volume, result).await.unwrap();
    assert_eq!(property_of(&pair.to.main(volume), MODE_PROPERTY), ALL.to_string());
    pair.from.volumes.drop_task(task).await.unwrap();
}
