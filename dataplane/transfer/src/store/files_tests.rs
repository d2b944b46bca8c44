use std::{fs, os::unix::fs::symlink};

use rustix::fs::{CWD, Mode, makedev, mknodat};

use super::*;

const ALL: Page<'_> = Page { after: "", limit: MAX_ENTRIES };

fn listed(root: &Path, path: &str, recursive: bool) -> io::Result<Vec<(String, FileKind, u64)>> {
    let entries = list(&Tree::open(root)?, Path::new(path), recursive, &ALL)?;
    Ok(entries.into_iter().map(|e| (e.path.clone(), e.kind(), e.size_bytes)).collect())
}

fn read(root: &Path, path: &str, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
    let mut part = Part::open(&Tree::open(root)?, Path::new(path), offset, limit)?;
    let mut bytes = Vec::new();
    while let Some(piece) = part.next()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn paths(list: Vec<(String, FileKind, u64)>) -> Vec<String> {
    list.into_iter().map(|e| e.0).collect()
}

#[test]
fn entries_come_in_order_of_their_paths() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir_all(root.join("a/deep")).unwrap();
    fs::create_dir(root.join("c")).unwrap();
    for (path, text) in [("b", "bb"), ("a/x", "x"), ("a/deep/y", ""), ("c/z", "zzz"), ("a-b", "")] {
        fs::write(root.join(path), text).unwrap();
    }
    symlink("/etc", root.join("link")).unwrap();
    let (file, folder) = (FileKind::File, FileKind::Folder);
    assert_eq!(paths(listed(root, "", false).unwrap()), ["a", "a-b", "b", "c", "link"]);
    assert_eq!(
        paths(listed(root, "", true).unwrap()),
        ["a", "a-b", "a/deep", "a/deep/y", "a/x", "b", "c", "c/z", "link"]
    );
    assert_eq!(listed(root, "a", false).unwrap(), [("a/deep".into(), folder, 0), ("a/x".into(), file, 1)]);
    assert_eq!(listed(root, "b", false).unwrap(), [("b".into(), file, 2)]);
    assert!(listed(root, "link", true).is_err());
    assert!(listed(root, "missing", true).is_err());
}

#[test]
fn pages_of_any_size_make_the_whole() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let folders = ["a", "a-", "a-/b", "a!", "a!/a", "z", "z/y", "z/y/x", "z/y/x/w", "empty", "a/empty"];
    for folder in folders {
        fs::create_dir_all(root.join(folder)).unwrap();
        for n in 0..4 {
            fs::write(root.join(folder).join(format!("f{n}")), "").unwrap();
        }
    }
    let whole = paths(listed(root, "", true).unwrap());
    assert!(whole.is_sorted() && whole.len() == 5 * folders.len(), "{whole:?}");
    let tree = Tree::open(root).unwrap();
    for limit in 1..8 {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let after = paged.last().cloned().unwrap_or_default();
            let page = list(&tree, Path::new(""), true, &Page { after: &after, limit }).unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page.into_iter().map(|entry| entry.path));
        }
        assert_eq!(paged, whole, "pages of {limit}");
    }
}

#[test]
fn a_large_folder_is_not_held_in_memory() {
    let root = tempfile::tempdir().unwrap();
    for n in 0..5_000 {
        fs::write(root.path().join(format!("{n:05}")), "").unwrap();
    }
    let tree = Tree::open(root.path()).unwrap();
    let page = Page { after: "02000", limit: 3 };
    let listing = Listing { tree: &tree, recursive: true, page: &page, ahead: VecDeque::new() };
    let first = listing.first_of(&tree.folder(Path::new("")).unwrap(), Path::new("")).unwrap();
    assert_eq!(first.len(), listing.most_ahead());
    let found = list(&tree, Path::new(""), true, &page).unwrap();
    assert_eq!(found.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["02001", "02002", "02003"]);
}

#[test]
fn parts_of_files_are_read_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let content: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(root.join("file"), &content).unwrap();
    assert_eq!(read(root, "file", 0, 0).unwrap(), content);
    assert_eq!(read(root, "file", 599_990, 100).unwrap(), content[599_990..]);
    assert_eq!(read(root, "file", 10, 5).unwrap(), content[10..15]);
    assert!(read(root, "file", 700_000, 0).unwrap().is_empty());
    symlink("/etc/passwd", root.join("link")).unwrap();
    for path in ["link", ".", "missing"] {
        assert!(read(root, path, 0, 0).is_err(), "{path}");
    }
}

#[test]
fn what_is_no_file_is_named_and_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let mut special = vec![("fifo", "a pipe")];
    // Only root can make devices.
    let mode = Mode::from_raw_mode(0o666);
    if mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).is_ok() {
        special.push(("null", "a device"));
    }
    for (path, kind) in special {
        let error = read(root, path, 0, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(kind), "{error}");
        assert!(listed(root, path, true).unwrap_err().to_string().contains(kind));
        let parent = paths(listed(root, "", true).unwrap());
        assert!(parent.contains(&path.to_owned()));
    }
}
