//! Listing and reading the files of a mounted snapshot. Everything here blocks.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use ds_proto::v1::{FileEntry, FileKind};
use rustix::fs::{AtFlags, Dir, FileType, Stat, fstat, statat};

use super::tree::Tree;

/// Bytes of a file in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Lists what is at `path`: a file itself, or the folder's entries sorted by name, with `recursive` all below them,
/// each folder before its entries. Stops when `sink` says `false`.
///
/// Names that are not UTF-8 are shown with replacement characters. Folders that are nested deeper than a path can name
/// are listed without their entries.
pub(super) fn list(
    tree: &Tree,
    path: &Path,
    recursive: bool,
    sink: &mut dyn FnMut(FileEntry) -> bool,
) -> io::Result<()> {
    let stat = fstat(tree.read(path)?)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        sink(entry(path, &stat));
        return Ok(());
    }
    // Paths still to be listed, the next one last.
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = match tree.folder(&folder) {
            Ok(listed) => listed,
            Err(error) if folder != path => {
                tracing::debug!(path = %folder.display(), %error, "a folder is listed without its entries");
                continue;
            }
            Err(error) => return Err(error),
        };
        if !list_folder(&listed, &folder, recursive, &mut folders, sink)? {
            break;
        }
    }
    Ok(())
}

fn list_folder(
    listed: &OwnedFd,
    path: &Path,
    recursive: bool,
    folders: &mut Vec<PathBuf>,
    sink: &mut dyn FnMut(FileEntry) -> bool,
) -> io::Result<bool> {
    let mut names = Vec::new();
    for found in Dir::read_from(listed)? {
        let found = found?;
        let name = found.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    let below = folders.len();
    for name in names {
        let name = OsStr::from_bytes(&name);
        let stat = statat(listed, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = path.join(name);
        if !sink(entry(&path, &stat)) {
            return Ok(false);
        }
        if recursive && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            folders.push(path);
        }
    }
    folders[below..].reverse();
    Ok(true)
}

fn entry(path: &Path, stat: &Stat) -> FileEntry {
    let (kind, size_bytes) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => (FileKind::File, u64::try_from(stat.st_size).unwrap_or(0)),
        FileType::Directory => (FileKind::Folder, 0),
        FileType::Symlink => (FileKind::Link, 0),
        _ => (FileKind::Other, 0),
    };
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    FileEntry {
        path: path.to_string_lossy().into_owned(),
        kind: kind.into(),
        size_bytes,
        modified_ms: stat.st_mtime.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000),
    }
}

/// An open file, or a part of one.
#[derive(Debug)]
pub(super) struct Part {
    file: OwnedFd,
    at: u64,
    left: u64,
}

impl Part {
    /// Opens `limit` bytes (0: all) from `offset` on. Only regular files can be read.
    pub(super) fn open(tree: &Tree, path: &Path, offset: u64, limit: u64) -> io::Result<Self> {
        let file = tree.read(path)?;
        let stat = fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(io::ErrorKind::IsADirectory.into()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
        }
        let rest = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset);
        let left = if limit == 0 { rest } else { rest.min(limit) };
        Ok(Self { file, at: offset, left })
    }

    /// How many bytes follow.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next piece; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut piece = BytesMut::zeroed(wanted);
        let read = rustix::io::pread(&self.file, &mut piece[..], self.at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        self.at += read as u64;
        self.left -= read as u64;
        Ok(Some(piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    fn listed(root: &Path, path: &str, recursive: bool) -> io::Result<Vec<(String, FileKind, u64)>> {
        let mut found = Vec::new();
        list(&Tree::open(root)?, Path::new(path), recursive, &mut |e| {
            found.push((e.path.clone(), e.kind(), e.size_bytes));
            true
        })?;
        Ok(found)
    }

    fn read(root: &Path, path: &str, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
        let mut part = Part::open(&Tree::open(root)?, Path::new(path), offset, limit)?;
        let mut bytes = Vec::new();
        while let Some(piece) = part.next()? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    #[test]
    fn entries_come_sorted_and_folders_before_what_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("a/deep")).unwrap();
        fs::create_dir(root.join("c")).unwrap();
        for (path, text) in [("b", "bb"), ("a/x", "x"), ("a/deep/y", ""), ("c/z", "zzz")] {
            fs::write(root.join(path), text).unwrap();
        }
        symlink("/etc", root.join("link")).unwrap();
        let (file, folder) = (FileKind::File, FileKind::Folder);
        let paths = |list: Vec<(String, FileKind, u64)>| list.into_iter().map(|e| e.0).collect::<Vec<_>>();
        assert_eq!(paths(listed(root, "", false).unwrap()), ["a", "b", "c", "link"]);
        assert_eq!(
            paths(listed(root, "", true).unwrap()),
            ["a", "b", "c", "link", "a/deep", "a/x", "a/deep/y", "c/z"]
        );
        assert_eq!(
            listed(root, "a", false).unwrap(),
            [("a/deep".into(), folder, 0), ("a/x".into(), file, 1)]
        );
        assert_eq!(listed(root, "b", false).unwrap(), [("b".into(), file, 2)]);
        assert!(listed(root, "link", true).is_err());
        assert!(listed(root, "missing", true).is_err());
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
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        for path in ["fifo", "link", ".", "missing"] {
            assert!(read(root, path, 0, 0).is_err(), "{path}");
        }
    }
}
