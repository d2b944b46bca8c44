//! Paths below a folder that nobody can lead out of it.
//!
//! A snapshot's files were made by whatever ran in a container: its links may point anywhere. Every path is therefore
//! resolved by the kernel relative to an open folder, and not beyond it (`openat2` with `RESOLVE_BENEATH`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, statat},
    io::Errno,
};

/// A path that is not one below a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path within the volume: give one without `..` and without a leading `/`")]
pub(super) struct BadPath(pub(super) String);

/// Parses a relative path; the empty one and `.` are the folder itself.
pub(super) fn relative(path: &Path) -> Result<PathBuf, BadPath> {
    let bad = || BadPath(path.to_string_lossy().into_owned());
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    if parts.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(bad());
    }
    Ok(parts)
}

/// An open folder.
pub(super) struct Tree(OwnedFd);

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, root, flags, Mode::empty())?))
    }

    /// Opens a file or folder for reading; anything else is an error, and is not opened: merely that can wait for ever (a
    /// FIFO) or move a machine (a device). Links are followed as long as they stay below the folder.
    pub(super) fn read(&self, path: &Path) -> io::Result<(OwnedFd, Stat)> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let found = self.resolve(path, OFlags::PATH | OFlags::CLOEXEC, how)?;
        let stat = fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {}
            other => {
                let kind = name_of(other);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not a file")));
            }
        }
        // The same thing again, whatever has its name by now.
        let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
        Ok((openat(CWD, itself, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, stat))
    }

    /// Opens a folder for listing. Its last component must not be a link.
    pub(super) fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.resolve(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    }

    /// Opens a folder to write into, and makes it and those above it as needed. No part of the path may be a link.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut made = PathBuf::new();
        let mut folder = self.strict(Path::new("."))?;
        for name in path {
            made.push(name);
            match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            folder = self.strict(&made)?;
        }
        Ok(folder)
    }

    fn strict(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.resolve(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    fn resolve(&self, path: &Path, flags: OFlags, how: ResolveFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.0, path, flags, Mode::empty(), how | ResolveFlags::NO_XDEV).map_err(|error| match error
        {
            Errno::XDEV => io::Error::other("a link leads out of the volume"),
            Errno::LOOP => io::Error::other("a link is in the way"),
            other => other.into(),
        })
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

/// What has this name in `folder`, itself and not what it links to.
pub(super) fn kind_of(folder: impl AsFd, name: &std::ffi::OsStr) -> io::Result<Option<FileType>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_out_of_the_folder_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        fs::write(root.join("sub/file"), "content").unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("..", root.join("parent")).unwrap();
        symlink("sub/file", root.join("inside")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let tree = Tree::open(&root).unwrap();
        for path in ["up", "absolute", "parent/secret", "magic/etc/passwd", "sub/../../secret"] {
            assert!(tree.read(Path::new(path)).is_err(), "{path}");
        }
        assert!(tree.make_folder(Path::new("parent/new")).is_err());
        assert!(!folder.path().join("new").exists());
        let mut text = String::new();
        fs::File::from(tree.read(Path::new("inside")).unwrap().0).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        tree.make_folder(Path::new("sub/a/b")).unwrap();
        assert!(root.join("sub/a/b").is_dir());
    }

    proptest! {
        #[test]
        fn a_parsed_path_stays_below(path in "[a./\\\\\0é]{0,24}") {
            if let Ok(parsed) = relative(Path::new(&path)) {
                prop_assert!(parsed.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(!path.starts_with('/') && !path.contains('\0'));
            }
        }
    }
}
