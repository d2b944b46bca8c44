//! Bookmarks, by hand: a base that costs nothing and outlives its snapshot.

use ds_zfs::{Base, SendPlan, SnapshotGuid, StreamKind};

use crate::{
    fixture::{Scratch, noise, pair, property_of, receive_bytes, received, refused, sent},
    support::{commit, zfs},
};

#[tokio::test]
async fn a_bookmark_is_a_base_after_its_snapshot_is_gone() {
    let Some(pair) = pair("an increment from a bookmark whose snapshot the sender has destroyed").await
    else {
        return;
    };
    let (volume, first) = pair.volume().await;
    let (here, there) = (pair.from.main(volume), pair.to.main(volume));
    let bookmark = format!("{here}#kept");
    let base = format!("{here}@{}", first.to_hex());
    zfs(&["bookmark", &base, &bookmark]);
    assert_eq!(property_of(&bookmark, "guid"), property_of(&base, "guid"));
    let second = commit(&pair.from.volumes, volume, first, "f", b"2").await;
    let target = format!("{here}@{}", second.to_hex());
    // It is a property of the history, which an advance hands on with the snapshots.
    assert_eq!(property_of(&bookmark, "guid"), property_of(&base, "guid"));
    zfs(&["destroy", &base]);

    let guid = |name: &str| SnapshotGuid(property_of(name, "guid").parse().unwrap());
    let kind = StreamKind::Incremental(Base { snapshot: first, guid: guid(&bookmark) });
    let plan = SendPlan { kind, ..pair.plan(volume, second).await };
    let stream = sent(&["-i", &bookmark, &target]);
    assert_eq!(receive_bytes(&pair.to.volumes, &plan, stream).await.unwrap(), guid(&target));
    assert_eq!(guid(&format!("{there}@{}", second.to_hex())), guid(&target));
}

#[tokio::test]
async fn a_bookmark_is_no_target() {
    let Some(pair) = pair("what is sent, cloned or received onto is never a bookmark").await else { return };
    let fs = Scratch::create(&pair.from, &[]);
    let one = fs.snapshot("1");
    let bookmark = format!("{}#1", fs.name);
    zfs(&["bookmark", &one, &bookmark]);
    refused(&["send", &bookmark]);
    refused(&["clone", &bookmark, &format!("{}/clone", fs.name)]);
    refused(&["bookmark", &one, &bookmark]);
    // A bookmark of a bookmark is a copy under another name.
    zfs(&["bookmark", &bookmark, &format!("{}#copy", fs.name)]);
    assert_eq!(property_of(&format!("{}#copy", fs.name), "guid"), property_of(&one, "guid"));
}

#[tokio::test]
async fn a_bookmark_of_another_line_is_refused() {
    let Some(pair) = pair("an increment from a bookmark that the receiver's tip is not").await else {
        return;
    };
    let (fs, copy) = (Scratch::create(&pair.from, &[]), Scratch::absent(&pair.to));
    let one = fs.snapshot("1");
    received(&["-u", &copy.name], &sent(&[&one])).unwrap();
    fs.write("f", &noise(10_000));
    let two = fs.snapshot("2");
    let bookmark = format!("{}#2", fs.name);
    zfs(&["bookmark", &two, &bookmark]);
    fs.write("f", b"3");
    let three = fs.snapshot("3");
    let said = received(&["-u", &copy.name], &sent(&["-i", &bookmark, &three])).unwrap_err();
    assert!(said.contains("does not\nmatch incremental source"), "{said}");
}
