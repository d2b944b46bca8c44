//! Walks a tree by descriptors, one open at a time, so that neither its depth nor the length of its paths matters.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};

use super::{Entry, EntryKind, Facts, LONGEST_PATH};

/// A folder that is being walked.
struct Folder {
    /// Device and inode, by which it is known again on the way up.
    identity: (u64, u64),
    /// Those in it that are still to be walked.
    folders: Vec<CString>,
    /// The length of its path.
    path_bytes: usize,
}

/// Everything in a tree but its folders, in no order.
pub(super) fn walk(tree: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut path = Vec::new();
    let mut here = openat(CWD, tree, FOLDER, Mode::empty())?;
    let root = identity(&fstat(&here)?);
    let mut above = vec![list(&here, root, &mut path, &mut entries)?];
    while let Some(folder) = above.last_mut() {
        path.truncate(folder.path_bytes);
        if let Some(name) = folder.folders.pop() {
            let Some((below, found)) = enter(&here, &name, root)? else { continue };
            push_name(&mut path, &name);
            here = below;
            above.push(list(&here, found, &mut path, &mut entries)?);
            continue;
        }
        above.pop();
        if let Some(parent) = above.last() {
            here = leave(&here, parent.identity)?;
        }
    }
    Ok(entries)
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder; `None` for one that vanished or that is another filesystem.
fn enter(here: &OwnedFd, name: &CStr, root: (u64, u64)) -> io::Result<Option<(OwnedFd, (u64, u64))>> {
    let Some(below) = unless_gone(openat(here, name, FOLDER, Mode::empty()))? else { return Ok(None) };
    let found = identity(&fstat(&below)?);
    Ok((found.0 == root.0).then_some((below, found)))
}

/// Opens the folder above, which must be the one that we came from.
fn leave(here: &OwnedFd, expected: (u64, u64)) -> io::Result<OwnedFd> {
    let above = openat(here, "..", FOLDER, Mode::empty())?;
    if identity(&fstat(&above)?) != expected {
        return Err(io::Error::other("a folder was moved while it was walked"));
    }
    Ok(above)
}

/// Reads a folder: notes what is in it, and gives the folders in it.
fn list(
    here: &OwnedFd,
    identity: (u64, u64),
    path: &mut Vec<u8>,
    entries: &mut Vec<Entry>,
) -> io::Result<Folder> {
    let mut folder = Folder { identity, folders: Vec::new(), path_bytes: path.len() };
    for found in Dir::read_from(here)? {
        let found = found?;
        let name = found.file_name();
        if name == c"." || name == c".." || path.len() + name.to_bytes().len() >= LONGEST_PATH {
            continue;
        }
        let Some(stat) = unless_gone(statat(here, name, AtFlags::SYMLINK_NOFOLLOW))? else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            folder.folders.push(name.to_owned());
            continue;
        }
        let Some(facts) = facts(here, name, &stat)? else { continue };
        push_name(path, name);
        entries.push(Entry { path: path.as_slice().into(), facts });
        path.truncate(folder.path_bytes);
    }
    Ok(folder)
}

/// `None` for a link that vanished, or became something else.
fn facts(here: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<Option<Facts>> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    };
    let target = if kind == EntryKind::Link {
        match readlinkat(here, name, Vec::new()) {
            Ok(target) => beginning(target.to_bytes()),
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    } else {
        0
    };
    Ok(Some(Facts {
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        inode: stat.st_ino,
        target,
    }))
}

fn nanoseconds(seconds: i64, rest: u64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

fn beginning(target: &[u8]) -> u64 {
    let digest = blake3::hash(target);
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn push_name(path: &mut Vec<u8>, name: &CStr) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
}

fn unless_gone<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
