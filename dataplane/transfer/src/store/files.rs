//! Listing and reading the files of a mounted snapshot. Everything here blocks.

use std::{
    collections::{BinaryHeap, VecDeque},
    ffi::{CString, OsStr},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use ds_proto::v1::{FileEntry, FileKind};
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Stat, statat};

use super::tree::Tree;

/// Bytes of a file in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Most entries of one page.
pub(super) const MAX_ENTRIES: usize = 10_000;

/// Which part of a listing is wanted.
pub(super) struct Page<'a> {
    /// Only entries whose paths come after this one.
    pub(super) after: &'a str,
    /// So many of them.
    pub(super) limit: usize,
}

/// Lists what is at `path`: a file itself, or the folder's entries, with `recursive` all below them; in order of the bytes
/// of their paths. In memory are never more than a few times as many entries as the page holds, however many there are.
///
/// Names that are not UTF-8 are shown, and ordered, with replacement characters. Folders that are nested deeper than a path
/// can name are listed without their entries.
pub(super) fn list(tree: &Tree, path: &Path, recursive: bool, page: &Page<'_>) -> io::Result<Vec<FileEntry>> {
    let (_, stat) = tree.read(path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let itself = entry(path, &stat);
        return Ok(if itself.path.as_str() > page.after { vec![itself] } else { Vec::new() });
    }
    let mut listing = Listing { tree, recursive, page, ahead: VecDeque::new() };
    listing.read_folder(path)?;
    let mut entries = Vec::new();
    while entries.len() < page.limit
        && let Some(step) = listing.ahead.pop_back()
    {
        match step.what {
            What::Entry(stat) => entries.push(entry(&step.path, &stat)),
            What::Below => match listing.read_folder(&step.path) {
                Ok(()) => {}
                Err(error) => {
                    let path = step.path.display();
                    tracing::debug!(%path, %error, "a folder is listed without its entries");
                }
            },
        }
    }
    Ok(entries)
}

struct Listing<'a> {
    tree: &'a Tree,
    recursive: bool,
    page: &'a Page<'a>,
    /// What comes next, the very next last: all that is in a folder comes before what follows the folder.
    ahead: VecDeque<Step>,
}

/// One step of a listing. A folder makes two, itself and what is below it, and others come between: `a`, `a-b`, `a/c`.
struct Step {
    /// The path as shown, with a `/` at its end for what is below.
    key: String,
    path: PathBuf,
    what: What,
}

enum What {
    Entry(Box<Stat>),
    Below,
}

/// A step that is not looked at closer unless it is among the first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    key: String,
    name: CString,
    below: bool,
}

impl Listing<'_> {
    /// More steps than this are never needed: each entry of the page can have one below it, and folders that came before the
    /// page can have entries on it if their paths are beginnings of `after`.
    fn most_ahead(&self) -> usize {
        2 * self.page.limit + self.page.after.len() + 1
    }

    /// Puts the steps of a folder before all others.
    fn read_folder(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.tree.folder(path)?;
        for Candidate { key, name, below } in self.first_of(&folder, path)?.into_iter().rev() {
            let what = if below {
                What::Below
            } else {
                What::Entry(Box::new(statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?))
            };
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            self.ahead.push_back(Step { key, path, what });
        }
        debug_assert!(self.ahead.iter().is_sorted_by(|a, b| a.key >= b.key), "the very next is last");
        while self.ahead.len() > self.most_ahead() {
            self.ahead.pop_front();
        }
        Ok(())
    }

    /// The folder's first steps, in order.
    fn first_of(&self, folder: &OwnedFd, path: &Path) -> io::Result<Vec<Candidate>> {
        let after = self.page.after;
        let mut first = BinaryHeap::new();
        let mut keep = |candidate| {
            first.push(candidate);
            if first.len() > self.most_ahead() {
                first.pop();
            }
        };
        for found in Dir::read_from(folder)? {
            let found = found?;
            let name = found.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let key = path.join(OsStr::from_bytes(name.to_bytes())).to_string_lossy().into_owned();
            let below = format!("{key}/");
            let may_have = self.recursive && (below.as_str() > after || after.starts_with(&below));
            if may_have && is_folder(folder, &found)? {
                keep(Candidate { key: below, name: name.to_owned(), below: true });
            }
            if key.as_str() > after {
                keep(Candidate { key, name: name.to_owned(), below: false });
            }
        }
        Ok(first.into_sorted_vec())
    }
}

/// Some filesystems tell with the name.
fn is_folder(folder: &OwnedFd, found: &DirEntry) -> io::Result<bool> {
    let kind = match found.file_type() {
        FileType::Unknown => {
            let stat = statat(folder, found.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(stat.st_mode)
        }
        known => known,
    };
    Ok(kind == FileType::Directory)
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
        let (file, stat) = tree.read(path)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(io::ErrorKind::IsADirectory.into());
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
#[path = "files_tests.rs"]
mod tests;
