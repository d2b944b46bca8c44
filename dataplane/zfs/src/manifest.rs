//! What changed in a mounted tree between two walks of it.
//!
//! A [`Manifest`] lists every file, link and other thing with what the filesystem says of it, sorted by path; two of them are
//! merged into the list of changes. No content is read but links' targets. (OpenZFS could answer from its block tree with
//! `zfs diff -FH`, without any walk; zfs-fuse cannot.)

mod file;
mod walk;

use std::{cmp::Ordering, fmt::Write, path::Path};

use crate::{Error, Result};

/// Bytes of the longest path. Programs can only name 4 KiB at once but go deeper step by step, without end: what lies deeper
/// than this is part of a snapshot but not listed.
const LONGEST_PATH: usize = 64 * 1024;

/// Everything in a tree but its folders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Sorted by the bytes of their paths.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Relative to the tree.
    path: Box<[u8]>,
    facts: Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    kind: EntryKind,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
    inode: u64,
    /// The beginning of the digest of a link's target; 0 for all else.
    target: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A socket, pipe or device.
    Other,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content, metadata or kind changed, or another file took its place.
    Modified,
    /// It is gone.
    Removed,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the tree; control characters and bytes that are no UTF-8 are shown as `\xNN`.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
    /// Bytes: after the change, or before it where the path is gone.
    pub size: u64,
}

impl Manifest {
    /// Walks a tree, which blocks the thread. Links are not followed, other filesystems not entered; what vanishes meanwhile is
    /// left out, and so is what lies below a path of 64 KiB.
    pub fn walk(tree: &Path) -> Result<Self> {
        let mut entries = walk::walk(tree).map_err(Error::io(format!("walk {}", tree.display())))?;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { entries })
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the tree has nothing but folders.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What changed, sorted by path. Folders are not reported.
pub fn diff(before: &Manifest, after: &Manifest) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (before.entries.iter().peekable(), after.entries.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        let was = if order == Ordering::Greater { None } else { old.next() };
        let is = if order == Ordering::Less { None } else { new.next() };
        let (entry, kind) = match (was, is) {
            (Some(was), Some(is)) if was.facts == is.facts => continue,
            (Some(_), Some(is)) => (is, ChangeKind::Modified),
            (Some(was), None) => (was, ChangeKind::Removed),
            (None, Some(is)) => (is, ChangeKind::Added),
            (None, None) => return changes,
        };
        changes.push(Change { path: shown(&entry.path), kind, size: entry.facts.size });
    }
}

fn shown(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                c.to_string().bytes().for_each(|byte| escape(&mut shown, byte));
            } else {
                shown.push(c);
            }
        }
        chunk.invalid().iter().for_each(|&byte| escape(&mut shown, byte));
    }
    shown
}

fn escape(shown: &mut String, byte: u8) {
    write!(shown, "\\x{byte:02x}").expect("writing into a string cannot fail");
}

#[cfg(test)]
mod tests;
