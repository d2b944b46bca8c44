use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

fn header(kind: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4754);
    header.set_mtime(1_000_000_000);
    // Past `Header::set_path`, which refuses what an attacker would write.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    header
}

fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            let mut header = header(*kind, path, 0);
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        } else {
            builder.append(&header(*kind, path, content.len() as u64), content.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn files_folders_and_links_are_unpacked_over_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("data")).unwrap();
    fs::write(root.join("data/old"), "before").unwrap();
    fs::write(root.join("data/kept"), "kept").unwrap();
    let tar = archive(&[
        (EntryType::Directory, "./", ""),
        (FILE, "old", "after"),
        (FILE, "deep/er/new", "n"),
        (EntryType::Symlink, "deep/link", "../old"),
        (EntryType::Link, "hard", "deep/er/new"),
    ]);
    let imported = unpack(root, Path::new("data"), tar.as_slice()).unwrap();
    let told: Vec<_> = imported.iter().map(|f| (f.path.as_str(), f.added, f.size_bytes)).collect();
    assert_eq!(
        told,
        [
            ("data/old", false, 5),
            ("data/deep/er/new", true, 1),
            ("data/deep/link", true, 0),
            ("data/hard", true, 0)
        ]
    );
    assert_eq!(fs::read_to_string(root.join("data/deep/link")).unwrap(), "after");
    assert_eq!(fs::read_to_string(root.join("data/kept")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(root.join("data/hard")).unwrap(), "n");
    let metadata = fs::metadata(root.join("data/old")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o754, "without the set-user-id bit");
    let modified = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(modified.as_secs(), 1_000_000_000);
}

#[test]
fn nothing_leaves_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    std::os::unix::fs::symlink("..", root.join("way-out")).unwrap();
    let hostile: &[&[(EntryType, &str, &str)]] = &[
        &[(FILE, "../evil", "x")],
        &[(FILE, "a/../../evil", "x")],
        &[(FILE, "/evil", "x")],
        &[(FILE, "way-out/evil", "x")],
        &[(EntryType::Directory, "way-out", "")],
        &[(EntryType::Directory, "../evil", "")],
        &[(EntryType::Symlink, "link", "/etc")],
        &[(EntryType::Symlink, "a/link", "../../evil")],
        &[(EntryType::Symlink, "link", "sub"), (FILE, "link/evil", "x")],
        &[(EntryType::Link, "hard", "../evil")],
        &[(EntryType::Link, "hard", "way-out")],
        &[(EntryType::Link, "hard", "/etc/passwd")],
        &[(EntryType::Char, "device", "")],
        &[(EntryType::Block, "device", "")],
        &[(EntryType::Fifo, "fifo", "")],
    ];
    for entries in hostile {
        let error = unpack(&root, Path::new(""), archive(entries).as_slice()).unwrap_err();
        assert!(!matches!(error, ImportError::Archive(_)), "{entries:?}: {error}");
    }
    assert!(unpack(&root, Path::new("way-out"), archive(&[(FILE, "evil", "x")]).as_slice()).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "only the root itself");
}

#[test]
fn a_link_in_the_way_of_a_file_is_replaced_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outside.path().join("secret"), "untouched").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("file")).unwrap();
    unpack(&root, Path::new(""), archive(&[(FILE, "file", "new")]).as_slice()).unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "new");
}

#[test]
fn a_cut_archive_and_one_with_more_behind_it_are_refused() {
    let whole = archive(&[(FILE, "file", &"x".repeat(2_000))]);
    let root = tempfile::tempdir().unwrap();
    for length in [100, 600, 1_500] {
        let error = unpack(root.path(), Path::new(""), &whole[..length]).unwrap_err();
        assert!(matches!(error, ImportError::Archive(_)), "{length}: {error}");
    }
    let more = whole.as_slice().chain(io::repeat(1));
    assert!(matches!(unpack(root.path(), Path::new(""), more), Err(ImportError::Archive(_))));
}

#[test]
fn long_names_and_pax_headers_are_read() {
    let root = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let mut builder = Builder::new(Vec::new());
    let mut gnu = header(FILE, "", 3);
    builder.append_data(&mut gnu, &long, &b"gnu"[..]).unwrap();
    let pax = format!("{long}-pax");
    builder.append_pax_extensions([("path", pax.as_bytes()), ("size", b"3"), ("comment", b"x")]).unwrap();
    // The size that counts is the extension's.
    builder.append(&header(FILE, "short", 3), &b"pax"[..]).unwrap();
    let mut link = header(EntryType::Symlink, "", 0);
    builder.append_link(&mut link, "link", &long).unwrap();
    let tar = builder.into_inner().unwrap();
    let imported = unpack(root.path(), Path::new(""), tar.as_slice()).unwrap();
    let told: Vec<_> = imported.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(told, [long.as_str(), pax.as_str(), "link"]);
    assert_eq!(fs::read_to_string(root.path().join("link")).unwrap(), "gnu");
    assert_eq!(fs::read_to_string(root.path().join(&pax)).unwrap(), "pax");
}

#[test]
fn a_header_that_claims_to_be_huge_is_refused_unread() {
    let root = tempfile::tempdir().unwrap();
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let huge = header(kind, "././@LongLink", 4 << 30);
        // What is behind the header is never asked for.
        let archive = huge.as_bytes().as_slice().chain(Unreadable);
        let error = unpack(root.path(), Path::new(""), archive).unwrap_err();
        let ImportError::Archive(source) = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::InvalidData, "{source}");
    }
    let sparse = header(EntryType::GNUSparse, "sparse", 0);
    let archive = sparse.as_bytes().as_slice().chain(Unreadable);
    let error = unpack(root.path(), Path::new(""), archive).unwrap_err();
    assert!(matches!(error, ImportError::Refused { .. }), "{error}");
}

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("it was read on")
    }
}

proptest! {
    #[test]
    fn foreign_bytes_never_write_outside(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir(&root).unwrap();
        let _ = unpack(&root, Path::new(""), bytes.as_slice());
        prop_assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
