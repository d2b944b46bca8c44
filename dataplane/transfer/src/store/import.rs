//! Unpacks a tar into a volume. Everything here blocks.
//!
//! An archive comes from anywhere, and the folder that it is unpacked over may hold links that a task made. So no path
//! and no link of the archive may leave the folder, and no part of a path may be a link. Files keep their permissions
//! (not set-user-id and the like) and times; they belong to the store's own user, since the numbers of another machine's
//! users mean nothing here. Their number and size are bounded by the pool alone.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use ds_proto::v1::ImportedFile;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, linkat, mkdirat,
        openat, symlinkat, unlinkat,
    },
    io::Errno,
};
use tar::EntryType;

use super::{
    members::{Member, Members},
    tree::{Tree, kind_of, relative},
};

/// Files that are reported; more are unpacked all the same.
pub(super) const MAX_REPORTED: usize = 100_000;

/// What may follow the archive's end: padding of the tape's block size.
const MAX_TRAILER_BYTES: u64 = 1 << 20;

const BUFFER_BYTES: usize = 256 << 10;

/// Why an archive was not unpacked. What was unpacked before stays, for the caller to drop.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// The archive cannot be read: it is no tar, it is cut, or its sender is gone.
    #[error("the archive cannot be read")]
    Archive(#[source] io::Error),
    /// The archive holds what is not let in.
    #[error("{path} in the archive is refused: {why}")]
    Refused { path: String, why: String },
    /// The volume does not take it.
    #[error("{path} could not be written")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, ImportError>;

/// Unpacks over `root` below `below`, replacing files that are there. Returns the files, in the archive's order and with
/// paths relative to `root`; not folders.
pub(super) fn unpack(root: &Path, below: &Path, archive: impl Read) -> Result<Vec<ImportedFile>> {
    let wrote = |source| ImportError::Write { path: below.display().to_string(), source };
    let tree = Tree::open(root).map_err(wrote)?;
    tree.make_folder(below).map_err(wrote)?;
    let mut unpacking = Unpacking { tree, below, imported: Vec::new(), buffer: vec![0; BUFFER_BYTES] };
    let mut members = Members::new(archive);
    while let Some(member) = members.next().map_err(ImportError::Archive)? {
        unpacking.member(&member, &mut members)?;
    }
    let archive = members.into_inner();
    // An archive that was cut at its sender ends here with the sender's error.
    let trailer =
        io::copy(&mut archive.take(MAX_TRAILER_BYTES), &mut io::sink()).map_err(ImportError::Archive)?;
    if trailer == MAX_TRAILER_BYTES {
        return Err(ImportError::Archive(io::Error::other("something else follows its end")));
    }
    Ok(unpacking.imported)
}

struct Unpacking<'a> {
    tree: Tree,
    below: &'a Path,
    imported: Vec<ImportedFile>,
    buffer: Vec<u8>,
}

/// Where an entry goes.
struct Place {
    /// Relative to the volume.
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
}

impl Unpacking<'_> {
    fn member(&mut self, member: &Member, content: &mut impl Read) -> Result<()> {
        let path = &member.path;
        match member.kind {
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link => {}
            EntryType::GNUSparse => {
                return Err(refused(path, "sparse files: make the archive without --sparse"));
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => {
                return Err(refused(path, "only files, folders and links are taken"));
            }
            _ => return Err(refused(path, "an entry of a kind that we don't know")),
        }
        let inside = relative(path).map_err(|e| refused(path, e))?;
        let Some(name) = inside.file_name().map(OsStr::to_owned) else {
            // The folder that all is unpacked into, which is there.
            return Ok(());
        };
        let place = self.place(&inside, name)?;
        match member.kind {
            EntryType::Directory => folder(member, &place),
            EntryType::Symlink => self.symlink(member, &inside, &place),
            EntryType::Link => self.hard_link(member, &place),
            _ => self.file(member, content, &place),
        }
    }

    fn place(&self, inside: &Path, name: OsString) -> Result<Place> {
        let path = self.below.join(inside);
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = self.tree.make_folder(parent).map_err(|source| write_error(&path, source))?;
        Ok(Place { path, folder, name })
    }

    fn file(&mut self, member: &Member, content: &mut impl Read, place: &Place) -> Result<()> {
        let added = make_way(place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&place.folder, &place.name, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| write_error(&place.path, e.into()))?;
        let size_bytes = self.write(member, content, File::from(file), place)?;
        self.report(place, added, size_bytes);
        Ok(())
    }

    fn write(
        &mut self,
        member: &Member,
        content: &mut impl Read,
        mut file: File,
        place: &Place,
    ) -> Result<u64> {
        let mut size_bytes = 0;
        loop {
            let read = content.read(&mut self.buffer).map_err(ImportError::Archive)?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read]).map_err(|source| write_error(&place.path, source))?;
            size_bytes += read as u64;
        }
        if size_bytes != member.size {
            return Err(ImportError::Archive(io::ErrorKind::UnexpectedEof.into()));
        }
        set_metadata(member, &file, 0).map_err(|source| write_error(&place.path, source))?;
        Ok(size_bytes)
    }

    fn symlink(&mut self, member: &Member, inside: &Path, place: &Place) -> Result<()> {
        let target = link_name(member, inside)?;
        if !stays_below(inside, &target) {
            return Err(refused(inside, format!("it links to {}, outside the archive", target.display())));
        }
        let added = make_way(place)?;
        symlinkat(&target, &place.folder, &place.name).map_err(|e| write_error(&place.path, e.into()))?;
        self.report(place, added, 0);
        Ok(())
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> Result<()> {
        let target = link_name(member, &place.path)?;
        let target = relative(&target).map_err(|e| refused(&place.path, e))?;
        let name = target.file_name().ok_or_else(|| refused(&place.path, "it links to a folder"))?.to_owned();
        let source = self.place(&target, name)?;
        if kind_of(&source.folder, &source.name).map_err(|e| write_error(&place.path, e))?
            != Some(FileType::RegularFile)
        {
            return Err(refused(&place.path, format!("it links to {}, which is no file", target.display())));
        }
        if source.path == place.path {
            return Ok(());
        }
        let added = make_way(place)?;
        linkat(&source.folder, &source.name, &place.folder, &place.name, AtFlags::empty())
            .map_err(|e| write_error(&place.path, e.into()))?;
        self.report(place, added, 0);
        Ok(())
    }

    fn report(&mut self, place: &Place, added: bool, size_bytes: u64) {
        if self.imported.len() < MAX_REPORTED {
            let path = place.path.to_string_lossy().into_owned();
            self.imported.push(ImportedFile { path, added, size_bytes });
        }
    }
}

fn folder(member: &Member, place: &Place) -> Result<()> {
    match mkdirat(&place.folder, &place.name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(write_error(&place.path, error.into())),
    }
    if kind_of(&place.folder, &place.name).map_err(|e| write_error(&place.path, e))?
        != Some(FileType::Directory)
    {
        return Err(refused(&place.path, "something that is not a folder has its name"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&place.folder, &place.name, flags, Mode::empty())
        .map_err(|e| write_error(&place.path, e.into()))?;
    // The owner can always look into it and empty it.
    set_metadata(member, &made, 0o700).map_err(|source| write_error(&place.path, source))
}

/// Removes a file that has the name. Says whether there was none.
fn make_way(place: &Place) -> Result<bool> {
    match kind_of(&place.folder, &place.name).map_err(|e| write_error(&place.path, e))? {
        None => Ok(true),
        Some(FileType::Directory) => Err(refused(&place.path, "a folder has its name")),
        Some(_) => {
            unlinkat(&place.folder, &place.name, AtFlags::empty())
                .map_err(|e| write_error(&place.path, e.into()))?;
            Ok(false)
        }
    }
}

fn set_metadata(member: &Member, file: impl AsFd, at_least: u32) -> io::Result<()> {
    let mode = member.header.mode()? & 0o777 | at_least;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    let seconds = i64::try_from(member.header.mtime()?).unwrap_or(0);
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    Ok(futimens(&file, &times)?)
}

fn link_name(member: &Member, path: &Path) -> Result<PathBuf> {
    member.target.clone().ok_or_else(|| refused(path, "a link to nothing"))
}

/// Whether a link at `path` (relative, without `..`) that points to `target` ends below the root, going by its text.
fn stays_below(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

fn refused(path: &Path, why: impl std::fmt::Display) -> ImportError {
    ImportError::Refused { path: path.display().to_string(), why: why.to_string() }
}

fn write_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Write { path: path.display().to_string(), source }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
