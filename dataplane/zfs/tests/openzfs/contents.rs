//! What people keep in a volume arrives as it was: every kind of file, name and attribute, whatever the sender's properties.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use ds_domain::ids::VolumeId;
use ds_zfs::StreamKind;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::fixture::{Pair, noise, pair, property_of};

/// A volume whose newest snapshot was filled on one side and sent to the other, read on both.
struct Arrived {
    volume: VolumeId,
    there: PathBuf,
}

/// Sends what `fill` makes, as an increment, and compares the trees.
async fn arrive(pair: &Pair, properties: &[&str], fill: impl FnOnce(PathBuf)) -> Arrived {
    let (volume, _) = pair.volume().await;
    arrive_on(pair, volume, properties, fill).await
}

async fn arrive_on(
    pair: &Pair,
    volume: VolumeId,
    properties: &[&str],
    fill: impl FnOnce(PathBuf),
) -> Arrived {
    let newest = pair.from.grow(volume, properties, fill);
    assert!(matches!(pair.plan(volume, newest).await.kind, StreamKind::Incremental(_)));
    pair.bring(volume, newest).await.unwrap();
    let here = pair.from.volumes.reading_clone(volume, newest).await.unwrap();
    let there = pair.to.volumes.reading_clone(volume, newest).await.unwrap();
    let (ours, theirs) = (tree(&here), tree(&there));
    assert!(ours == theirs, "{:?} is not {:?}", ours.keys(), theirs.keys());
    Arrived { volume, there }
}

/// Everything in a folder, by path, with what a reader can see of it.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (Vec<u64>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let seen = fs::symlink_metadata(&path).unwrap();
            let content = if seen.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if seen.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if seen.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let times = [seen.mtime().cast_unsigned(), seen.mtime_nsec().cast_unsigned()];
            let mut facts =
                vec![seen.mode().into(), seen.uid().into(), seen.gid().into(), seen.nlink(), seen.ino()];
            facts.extend(times);
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), (facts, content));
        }
    }
    found
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn attribute(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::getxattr(path, name, &mut value).unwrap();
    value.truncate(length);
    value
}

#[tokio::test]
async fn names_of_every_kind() {
    let Some(pair) = pair("names with spaces, line ends, Unicode, of 255 bytes and of no encoding").await
    else {
        return;
    };
    arrive(&pair, &[], |home| {
        let longest = "n".repeat(255);
        for name in
            [" two  spaces ", "line\nend", "tab\t'quote\"", "Größe – 数据 🧪", "-rf", "%recv", &longest]
        {
            fs::write(home.join(name), name).unwrap();
            if name != longest {
                fs::create_dir_all(home.join("folders").join(name)).unwrap();
            }
        }
        // A name is bytes, and these are no UTF-8.
        let bytes = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe latin \xe9");
        fs::write(home.join(bytes), "bytes").unwrap();
    })
    .await;
}

#[tokio::test]
async fn links_modes_owners_and_special_files() {
    let Some(pair) = pair("hard links, symbolic links, pipes, modes, owners and times").await else { return };
    let arrived = arrive(&pair, &[], |home| {
        fs::write(home.join("one"), "linked").unwrap();
        fs::create_dir(home.join("folder")).unwrap();
        fs::hard_link(home.join("one"), home.join("folder/two")).unwrap();
        symlink("../nowhere", home.join("dangling")).unwrap();
        symlink("l".repeat(1000), home.join("long")).unwrap();
        rustix::fs::mknodat(CWD, home.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        fs::set_permissions(home.join("one"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(home.join("folder"), fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::chown(home.join("one"), Some(1234), Some(u32::MAX - 1)).unwrap();
        fs::write(home.join("old"), "").unwrap();
        let old = fs::File::options().write(true).open(home.join("old")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1, 5)).unwrap();
    })
    .await;
    assert_eq!(fs::metadata(arrived.there.join("one")).unwrap().nlink(), 2);
}

#[tokio::test]
async fn extended_attributes() {
    let Some(pair) = pair("extended attributes, in folders of their own and in the node").await else {
        return;
    };
    for kind in ["xattr=on", "xattr=sa"] {
        let long = noise(20_000);
        let arrived = arrive(&pair, &[kind, "dnodesize=auto"], |home| {
            fs::write(home.join("file"), "content").unwrap();
            set_attribute(&home.join("file"), "user.short", b"value");
            set_attribute(&home.join("file"), "user.long", &long);
            set_attribute(&home, "user.folder", b"");
        })
        .await;
        let file = arrived.there.join("file");
        assert_eq!(
            (attribute(&file, "user.short"), attribute(&file, "user.long")),
            (b"value".to_vec(), long)
        );
        assert_eq!(attribute(&arrived.there, "user.folder"), b"");
    }
}

#[tokio::test]
async fn sparse_files_stay_sparse() {
    let Some(pair) = pair("a file of 1 TiB with two blocks in it").await else { return };
    let (volume, _) = pair.volume().await;
    let newest = pair.from.grow(volume, &[], |home| {
        let file = fs::File::create(home.join("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"middle", 1 << 39).unwrap();
        file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    });
    pair.bring(volume, newest).await.unwrap();
    let there = pair.to.volumes.reading_clone(volume, newest).await.unwrap();
    let file = fs::File::open(there.join("sparse")).unwrap();
    let seen = file.metadata().unwrap();
    assert!(seen.len() == 1 << 40 && seen.blocks() < 4096, "{seen:?}");
    let mut middle = [1; 8];
    file.read_exact_at(&mut middle, 1 << 39).unwrap();
    assert_eq!(&middle, b"middle\0\0");
}

#[tokio::test]
async fn many_small_files_and_empty_ones() {
    let Some(pair) = pair("1,500 files of up to a few bytes").await else { return };
    arrive(&pair, &[], |home| {
        for folder in 0..5 {
            let folder = home.join(folder.to_string());
            fs::create_dir(&folder).unwrap();
            for n in 0..300_u16 {
                fs::write(folder.join(format!("{n}.json")), vec![b'x'; usize::from(n % 5)]).unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn removals_renames_and_truncations() {
    let Some(pair) = pair("an increment that takes away").await else { return };
    let before = arrive(&pair, &[], |home| {
        fs::create_dir(home.join("gone")).unwrap();
        (0..20).for_each(|n| fs::write(home.join(format!("gone/{n}")), noise(5_000)).unwrap());
        fs::write(home.join("shorter"), noise(400_000)).unwrap();
        fs::write(home.join("named"), noise(300_000)).unwrap();
        fs::write(home.join("patched"), noise(600_000)).unwrap();
    })
    .await;
    let after = arrive_on(&pair, before.volume, &[], |home| {
        fs::remove_dir_all(home.join("gone")).unwrap();
        fs::File::options().write(true).open(home.join("shorter")).unwrap().set_len(1000).unwrap();
        fs::rename(home.join("named"), home.join("renamed")).unwrap();
        let patched = fs::File::options().write(true).open(home.join("patched")).unwrap();
        patched.write_all_at(b"patch", 300_001).unwrap();
        // A file where a folder was, under the same name and perhaps in the same node.
        fs::write(home.join("gone"), "now a file").unwrap();
    })
    .await;
    assert!(!after.there.join("named").exists());
}

#[tokio::test]
async fn an_increment_without_changes() {
    let Some(pair) = pair("a snapshot that is equal to its base").await else { return };
    arrive(&pair, &[], |_| {}).await;
}

#[tokio::test]
async fn compressed_by_the_sender() {
    let Some(pair) =
        pair("files that the sender keeps compressed with zstd and gzip; lz4 is what everybody has").await
    else {
        return;
    };
    for compression in ["compression=zstd-3", "compression=gzip-1"] {
        let text = "a line that repeats\n".repeat(30_000);
        let arrived =
            arrive(&pair, &[compression], |home| fs::write(home.join("text"), &text).unwrap()).await;
        assert_eq!(fs::read_to_string(arrived.there.join("text")).unwrap(), text);
    }
}

#[tokio::test]
async fn large_and_small_records() {
    let Some(pair) = pair("files in records of 1 MiB and of 4 KiB").await else { return };
    for record in ["recordsize=1M", "recordsize=4K"] {
        let arrived =
            arrive(&pair, &[record], |home| fs::write(home.join("f"), noise(2_500_000)).unwrap()).await;
        arrive_on(&pair, arrived.volume, &[record], |home| {
            let file = fs::File::options().write(true).open(home.join("f")).unwrap();
            file.write_all_at(b"patch", 1_500_000).unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn large_nodes() {
    let Some(pair) = pair("nodes of 1 and 16 KiB").await else { return };
    for size in ["dnodesize=1k", "dnodesize=16k"] {
        let arrived = arrive(&pair, &[size, "xattr=sa"], |home| {
            for n in 0..40 {
                let file = home.join(n.to_string());
                fs::write(&file, noise(n * 100)).unwrap();
                set_attribute(&file, "user.note", &noise(600));
            }
        })
        .await;
        assert_eq!(attribute(&arrived.there.join("39"), "user.note"), noise(600));
    }
}

#[tokio::test]
async fn properties_stay_at_home() {
    let Some(pair) = pair("a stream brings no property of its sender, and no mountpoint above all").await
    else {
        return;
    };
    let (volume, _) = pair.volume().await;
    let newest = pair.from.write(volume, "f", b"1");
    let outside = tempfile::tempdir().unwrap();
    let ours = pair.from.main(volume);
    let mountpoint = format!("mountpoint={}", outside.path().display());
    for property in ["compression=zstd", "quota=50M", "user:note=ours", "canmount=noauto", &mountpoint] {
        crate::support::zfs(&["set", property, &ours]);
    }
    pair.bring(volume, newest).await.unwrap();
    let theirs = pair.to.main(volume);
    for (property, value) in [("mountpoint", "none"), ("mounted", "no"), ("quota", "0"), ("user:note", "-")] {
        assert_eq!(property_of(&theirs, property), value, "{property}");
    }
    assert_ne!(property_of(&theirs, "compression"), "zstd");
}
