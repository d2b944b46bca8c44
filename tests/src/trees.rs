//! Whether two mounted trees are equal, byte for byte.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, Result, ensure};

const PIECE_BYTES: usize = 1 << 20;

/// Fails with the first path that differs in kind, mode, owner, time, length, link or content.
pub fn compare(one: &Path, other: &Path) -> Result<()> {
    let names = entries(one)?;
    ensure!(names == entries(other)?, "{} and {} have different entries", one.display(), other.display());
    for name in names {
        let (one, other) = (one.join(&name), other.join(&name));
        compare_entry(&one, &other)
            .with_context(|| format!("{} differs from {}", one.display(), other.display()))?;
    }
    Ok(())
}

fn compare_entry(one: &Path, other: &Path) -> Result<()> {
    let (a, b) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    ensure!(a.mode() == b.mode() && (a.uid(), a.gid()) == (b.uid(), b.gid()), "kind, mode or owner");
    ensure!((a.mtime(), a.mtime_nsec()) == (b.mtime(), b.mtime_nsec()), "the time of change");
    if a.is_dir() {
        return compare(one, other);
    }
    ensure!(a.nlink() == b.nlink() && a.len() == b.len(), "names of it, or the length");
    if a.is_symlink() {
        ensure!(fs::read_link(one)? == fs::read_link(other)?, "where the link leads");
        return Ok(());
    }
    let (mut a, mut b) = (File::open(one)?, File::open(other)?);
    let (mut piece, mut other_piece) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let length = a.read(&mut piece)?;
        b.read_exact(&mut other_piece[..length])?;
        ensure!(piece[..length] == other_piece[..length], "the content");
        if length == 0 {
            return Ok(());
        }
    }
}

fn entries(folder: &Path) -> Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}
