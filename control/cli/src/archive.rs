//! A folder, or one file, as a tar, made while it is sent.
//!
//! The names are in order, so that the same folder gives the same tar. Symbolic links are kept as links and never
//! followed; those that lead out of the folder are left out, and so is `.git`. Memory is bounded: a thread makes the tar no faster than the network takes it.

use std::{
    fs,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use walkdir::{DirEntry, WalkDir};

/// Bytes handed over at once, and how many such pieces may wait for the network.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;
/// What a tar is made of.
const BLOCK: u64 = 512;

/// What is to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Regular files and links.
    pub(crate) files: u64,
    /// Bytes in regular files.
    pub(crate) bytes: u64,
    /// Bytes of the tar, but for names too long for a header.
    pub(crate) tar_bytes: u64,
    /// Links to what is outside of the folder: left out, since it is not there on another machine.
    pub(crate) outward: u64,
    /// Sockets, pipes and devices: left out.
    pub(crate) others: u64,
}

/// Counts what would be sent.
pub(crate) fn survey(root: &Path) -> Result<Inventory> {
    let metadata = fs::metadata(root).with_context(|| format!("cannot read {}", root.display()))?;
    if !metadata.is_dir() && !metadata.is_file() {
        bail!("{} is neither a folder nor a file: nothing of it can be uploaded", root.display());
    }
    // Two empty blocks end a tar.
    let mut found = Inventory { tar_bytes: 2 * BLOCK, ..Inventory::default() };
    for entry in entries(root) {
        let entry = entry?;
        match Kind::of(&entry, root)? {
            Kind::File => {
                // Of the file behind a link, if the one file was named through one.
                let bytes = fs::metadata(entry.path())?.len();
                found.files += 1;
                found.bytes += bytes;
                found.tar_bytes += BLOCK + bytes.next_multiple_of(BLOCK);
            }
            Kind::Link(_) => {
                found.files += 1;
                found.tar_bytes += BLOCK;
            }
            Kind::Folder => found.tar_bytes += BLOCK,
            Kind::Outward => found.outward += 1,
            Kind::Other => found.others += 1,
        }
    }
    Ok(found)
}

/// The tar of what is in the folder `root`, or of the file `root`, piece by piece.
pub(crate) fn stream(root: PathBuf) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(PIECES);
    // Ends by itself: with the folder, with an error, or when the receiver is dropped.
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, buffer: Vec::with_capacity(PIECE) };
        if let Err(error) = write_tar(&root, &mut pieces) {
            let _ = pieces.sender.blocking_send(Err(io::Error::other(format!("{error:#}"))));
        }
    });
    ReceiverStream::new(receiver)
}

/// Writes the tar of `root`.
fn write_tar(root: &Path, out: &mut impl Write) -> Result<()> {
    let mut tar = tar::Builder::new(out);
    for entry in entries(root) {
        let entry = entry?;
        append(&mut tar, &entry, root).with_context(|| format!("cannot read {}", entry.path().display()))?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

fn append(tar: &mut tar::Builder<impl Write>, entry: &DirEntry, root: &Path) -> Result<()> {
    let name = inside(entry, root);
    match Kind::of(entry, root)? {
        Kind::File => {
            let file = File::open(entry.path())?;
            // Of the open file: what the walk saw may have been replaced meanwhile.
            let metadata = file.metadata()?;
            let mut header = header(&metadata, tar::EntryType::Regular, metadata.len());
            tar.append_data(&mut header, name, Exactly { file, left: metadata.len() })?;
        }
        Kind::Folder => {
            let mut header = header(&entry.metadata()?, tar::EntryType::Directory, 0);
            tar.append_data(&mut header, name, io::empty())?;
        }
        Kind::Link(target) => {
            tar.append_link(&mut header(&entry.metadata()?, tar::EntryType::Symlink, 0), name, target)?;
        }
        Kind::Outward | Kind::Other => {}
    }
    Ok(())
}

/// How a name is sent.
enum Kind {
    File,
    Folder,
    Link(PathBuf),
    Outward,
    Other,
}

impl Kind {
    fn of(entry: &DirEntry, root: &Path) -> Result<Self> {
        if entry.depth() == 0 {
            return Ok(Self::File);
        }
        let kind = entry.file_type();
        if kind.is_symlink() {
            let shown = || format!("cannot read the link {}", entry.path().display());
            let target = fs::read_link(entry.path()).with_context(shown)?;
            return Ok(if stays_below(inside(entry, root), &target) {
                Self::Link(target)
            } else {
                Self::Outward
            });
        }
        Ok(match (kind.is_file(), kind.is_dir()) {
            (true, _) => Self::File,
            (_, true) => Self::Folder,
            _ => Self::Other,
        })
    }
}

/// Whether the link `name` to `target` leads to something below the root, as far as names tell.
fn stays_below(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// The name in the tar: relative to the folder, or the name of the one file.
fn inside<'a>(entry: &'a DirEntry, root: &Path) -> &'a Path {
    match entry.depth() {
        0 => Path::new(entry.file_name()),
        _ => entry.path().strip_prefix(root).expect("a walk stays below its root"),
    }
}

/// A header without owner: who the files belong to here means nothing there.
fn header(metadata: &fs::Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(metadata.permissions().mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header
}

fn entries(root: &Path) -> impl Iterator<Item = Result<DirEntry>> {
    let walk = WalkDir::new(root).follow_links(false).sort_by_file_name();
    let kept = walk.into_iter().filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git");
    let is_sent = |entry: &walkdir::Result<DirEntry>| {
        // A folder is not in its own archive. The one file may be named through a link.
        entry.as_ref().map_or(true, |entry| entry.depth() > 0 || !entry.path().is_dir())
    };
    kept.filter(is_sent).map(|entry| entry.context("cannot read what is to be uploaded"))
}

/// A file of the length that its header says, even if somebody writes to it meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Hands what is written to the receiver, in pieces; a slow receiver makes the writer wait.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures_util::StreamExt;
    use tar::EntryType::{Directory, Regular, Symlink};

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b/.git/objects")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        fs::write(root.join("b/two.txt"), "two").unwrap();
        fs::write(root.join("b/.git/config"), "secret").unwrap();
        fs::write(root.join("a.txt"), "one").unwrap();
        fs::write(root.join("c.bin"), vec![7; 3 * PIECE + 1]).unwrap();
        symlink("../a.txt", root.join("b/link")).unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("../../etc", root.join("b/out")).unwrap();
        folder
    }

    async fn collect(root: &Path) -> Vec<u8> {
        let mut pieces = std::pin::pin!(stream(root.to_owned()));
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_tar_is_in_order_follows_no_link_and_repeats() {
        let folder = folder();
        let bytes = collect(folder.path()).await;
        let mut tar = tar::Archive::new(bytes.as_slice());
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            names.push((entry.path().unwrap().display().to_string(), entry.header().entry_type()));
        }
        let expected = [
            ("a.txt", Regular),
            ("b", Directory),
            ("b/link", Symlink),
            ("b/two.txt", Regular),
            ("c.bin", Regular),
            ("empty", Directory),
        ];
        assert_eq!(names, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(bytes, collect(folder.path()).await);
        assert_eq!(bytes.len() as u64, survey(folder.path()).unwrap().tar_bytes);
    }

    #[test]
    fn an_inventory_counts_what_is_sent() {
        let folder = folder();
        let found = survey(folder.path()).unwrap();
        assert_eq!((found.files, found.bytes), (4, 6 + 3 * PIECE as u64 + 1));
        assert_eq!((found.outward, found.others), (2, 0));
        assert!(survey(Path::new("/dev/null")).unwrap_err().to_string().contains("neither a folder"));
        assert!(survey(&folder.path().join("none")).is_err());
    }

    #[tokio::test]
    async fn one_file_is_sent_under_its_own_name() {
        let folder = folder();
        let link = folder.path().join("named");
        symlink("a.txt", &link).unwrap();
        for (file, name) in [(folder.path().join("b/two.txt"), "two.txt"), (link, "named")] {
            assert_eq!((survey(&file).unwrap().files, survey(&file).unwrap().bytes), (1, 3));
            let bytes = collect(&file).await;
            let mut tar = tar::Archive::new(bytes.as_slice());
            let names: Vec<_> =
                tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
            assert_eq!(names, [PathBuf::from(name)]);
        }
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_the_thread() {
        let folder = folder();
        drop(stream(folder.path().to_owned()));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut() {
        let folder = folder();
        let open = || File::open(folder.path().join("a.txt")).unwrap();
        let mut text = String::new();
        assert!(Exactly { file: open(), left: 4 }.read_to_string(&mut text).is_err());
        text.clear();
        Exactly { file: open(), left: 2 }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "on");
    }
}
