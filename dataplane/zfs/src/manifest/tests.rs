use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
};

use proptest::prelude::*;

use super::*;

fn changes(before: &Manifest, after: &Manifest) -> Vec<(String, ChangeKind)> {
    diff(before, after).into_iter().map(|change| (change.path, change.kind)).collect()
}

#[test]
fn added_modified_and_removed_are_told_apart() {
    let tree = tempfile::tempdir().unwrap();
    let at = |path: &str| tree.path().join(path);
    fs::create_dir_all(at("a/deep")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    for path in ["a.txt", "a/deep/kept", "a/changed", "gone"] {
        fs::write(at(path), path).unwrap();
    }
    symlink("a.txt", at("link")).unwrap();
    let before = Manifest::walk(tree.path()).unwrap();
    assert_eq!(before.len(), 5);
    assert_eq!(diff(&before, &Manifest::walk(tree.path()).unwrap()), []);

    fs::write(at("a/changed"), "another length").unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::remove_dir(at("empty")).unwrap();
    fs::write(at("new"), "12345").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("b.txt", at("link")).unwrap();
    let after = Manifest::walk(tree.path()).unwrap();
    let expected = [
        ("a/changed", ChangeKind::Modified),
        ("gone", ChangeKind::Removed),
        ("link", ChangeKind::Modified),
        ("new", ChangeKind::Added),
    ];
    assert_eq!(changes(&before, &after), expected.map(|(path, kind)| (path.to_owned(), kind)));
    assert_eq!(diff(&before, &after)[3].size, 5);
}

#[test]
fn names_that_are_no_text_are_shown_escaped() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join(OsStr::from_bytes(b"caf\xe9\nb")), "").unwrap();
    fs::write(tree.path().join("grün"), "").unwrap();
    let shown = changes(&Manifest::default(), &Manifest::walk(tree.path()).unwrap());
    assert_eq!(shown.into_iter().map(|(path, _)| path).collect::<Vec<_>>(), ["caf\\xe9\\x0ab", "grün"]);
}

#[test]
fn a_tree_deeper_than_any_path_is_walked_whole() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let tree = tempfile::tempdir().unwrap();
    let mut here = openat(CWD, tree.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    let name = "d".repeat(200);
    for _ in 0..60 {
        mkdirat(&here, name.as_str(), Mode::RWXU).unwrap();
        here = openat(&here, name.as_str(), OFlags::RDONLY, Mode::empty()).unwrap();
    }
    openat(&here, "deep", OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).unwrap();
    fs::write(tree.path().join("top"), "").unwrap();
    let manifest = Manifest::walk(tree.path()).unwrap();
    let expected = format!("{}deep", format!("{name}/").repeat(60));
    let shown = changes(&Manifest::default(), &manifest);
    assert_eq!(shown, [(expected, ChangeKind::Added), ("top".to_owned(), ChangeKind::Added)]);
    let path = tree.path().join("manifest");
    manifest.write(&path).unwrap();
    assert_eq!(Manifest::read(&path).unwrap(), manifest);
}

#[test]
fn a_tree_that_is_not_there_is_an_error() {
    assert!(matches!(Manifest::walk(Path::new("/nonexistent/tree")), Err(Error::Io { .. })));
}

#[test]
fn it_survives_a_file_and_a_damaged_file_is_refused() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("one"), "1").unwrap();
    symlink("one", tree.path().join("two")).unwrap();
    let manifest = Manifest::walk(tree.path()).unwrap();
    let path = tree.path().join("manifest");
    manifest.write(&path).unwrap();
    assert_eq!(Manifest::read(&path).unwrap(), manifest);

    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(matches!(Manifest::read(&path), Err(Error::InvalidManifest { .. })), "{cut}");
    }
    let mut flipped = whole;
    flipped[20] ^= 1;
    fs::write(&path, &flipped).unwrap();
    assert!(matches!(Manifest::read(&path), Err(Error::InvalidManifest { .. })));
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let kind = prop_oneof![Just(EntryKind::File), Just(EntryKind::Link), Just(EntryKind::Other)];
    let facts = (kind, any::<u8>(), any::<i128>(), any::<u64>());
    proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..6), facts, 0..20).prop_map(
        |entries| Manifest {
            entries: entries
                .into_iter()
                .map(|(path, (kind, size, modified_ns, inode))| Entry {
                    path: path.into(),
                    facts: Facts {
                        kind,
                        size: size.into(),
                        modified_ns,
                        changed_ns: modified_ns,
                        inode,
                        target: inode,
                    },
                })
                .collect(),
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::read_from(&bytes[..]);
        let _ = Manifest::read_from(&[b"ds manifest v1\r\n".as_slice(), &bytes].concat()[..]);
    }

    #[test]
    fn a_diff_turns_one_into_the_other(before in manifest(), after in manifest()) {
        let changes = diff(&before, &after);
        let added = changes.iter().filter(|change| change.kind == ChangeKind::Added).count();
        let removed = changes.iter().filter(|change| change.kind == ChangeKind::Removed).count();
        prop_assert_eq!(before.len() + added, after.len() + removed);
        prop_assert_eq!(diff(&before, &before), []);
        prop_assert_eq!(diff(&after, &before).len(), changes.len());
    }
}
