//! Typed ids to names on a pool, and back. No other file of this crate builds a dataset name.

use std::path::{Path, PathBuf};

use ds_domain::{
    TreeName,
    ids::{SnapshotId, TaskId, VolumeId},
};
use uuid::Uuid;

use crate::{Error, Result};

/// ZFS allows 255 bytes for a full name; ours add at most 103 (`/t/<32>/<32>@<32>`) to the root's.
const LONGEST_ROOT: usize = 150;

/// Where everything lies: below one root dataset, with mounts below one folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: String,
    mount_dir: PathBuf,
}

/// What a filesystem below the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// `v/<volume>`
    Main(VolumeId),
    /// `b/<volume>/<snapshot>`
    Branch(VolumeId, SnapshotId),
    /// `t/<task>/<volume>`
    Task(TaskId, VolumeId),
    /// `r/<snapshot>`
    Reading(SnapshotId),
}

impl Place {
    /// The volume whose bytes it holds; a reading clone's name does not say.
    pub(crate) fn volume(self) -> Option<VolumeId> {
        match self {
            Self::Main(volume) | Self::Branch(volume, _) | Self::Task(_, volume) => Some(volume),
            Self::Reading(_) => None,
        }
    }
}

impl Layout {
    pub(crate) fn new(root: &str, mount_dir: &Path) -> Result<Self> {
        let component = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
        };
        if root.len() > LONGEST_ROOT || !root.split('/').all(component) {
            return Err(Error::InvalidRoot { root: root.to_owned() });
        }
        Ok(Self { root: root.to_owned(), mount_dir: mount_dir.to_owned() })
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn pool(&self) -> &str {
        self.root.split('/').next().unwrap_or(&self.root)
    }

    pub(crate) fn mount_dir(&self) -> &Path {
        &self.mount_dir
    }

    /// `v`, `b`, `t`, `r` and `d`.
    pub(crate) fn folders(&self) -> [String; 5] {
        ["v", "b", "t", "r", "d"].map(|folder| format!("{}/{folder}", self.root))
    }

    /// Holds no file, only a reservation.
    pub(crate) fn reserve(&self) -> String {
        format!("{}/reserve", self.root)
    }

    pub(crate) fn mains(&self) -> String {
        format!("{}/v", self.root)
    }

    pub(crate) fn all_branches(&self) -> String {
        format!("{}/b", self.root)
    }

    pub(crate) fn tasks(&self) -> String {
        format!("{}/t", self.root)
    }

    pub(crate) fn readings(&self) -> String {
        format!("{}/r", self.root)
    }

    /// `d/<name>`, with a tree below it whose names are its owner's.
    pub(crate) fn tree(&self, name: &TreeName) -> String {
        format!("{}/d/{name}", self.root)
    }

    pub(crate) fn task(&self, task: TaskId) -> String {
        format!("{}/t/{}", self.root, task.to_hex())
    }

    pub(crate) fn branches(&self, volume: VolumeId) -> String {
        format!("{}/b/{}", self.root, volume.to_hex())
    }

    pub(crate) fn filesystem(&self, place: Place) -> String {
        format!("{}/{}", self.root, below_root(place))
    }

    pub(crate) fn mountpoint(&self, place: Place) -> PathBuf {
        self.mount_dir.join(below_root(place))
    }

    /// Folders, half-made things and whatever else is no filesystem of ours give `None`.
    pub(crate) fn parse(&self, filesystem: &str) -> Option<Place> {
        let mut parts = filesystem.strip_prefix(&self.root)?.strip_prefix('/')?.split('/');
        let (kind, first, second) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() {
            return None;
        }
        match (kind, second) {
            ("v", None) => Some(Place::Main(VolumeId(hex(first)?))),
            ("b", Some(second)) => Some(Place::Branch(VolumeId(hex(first)?), SnapshotId(hex(second)?))),
            ("t", Some(second)) => Some(Place::Task(TaskId(hex(first)?), VolumeId(hex(second)?))),
            ("r", None) => Some(Place::Reading(SnapshotId(hex(first)?))),
            _ => None,
        }
    }
}

fn below_root(place: Place) -> String {
    match place {
        Place::Main(volume) => format!("v/{}", volume.to_hex()),
        Place::Branch(volume, snapshot) => format!("b/{}/{}", volume.to_hex(), snapshot.to_hex()),
        Place::Task(task, volume) => format!("t/{}/{}", task.to_hex(), volume.to_hex()),
        Place::Reading(snapshot) => format!("r/{}", snapshot.to_hex()),
    }
}

/// `<filesystem>@<snapshot>`
pub(crate) fn snapshot_name(filesystem: &str, snapshot: SnapshotId) -> String {
    format!("{filesystem}@{}", snapshot.to_hex())
}

/// `<filesystem>#<snapshot>`
pub(crate) fn bookmark_name(filesystem: &str, snapshot: SnapshotId) -> String {
    format!("{filesystem}#{}", snapshot.to_hex())
}

/// Splits `<filesystem>#<32 hex digits>`; other bookmarks (somebody's own) give `None`.
pub(crate) fn parse_bookmark(name: &str) -> Option<(&str, SnapshotId)> {
    let (filesystem, snapshot) = name.split_once('#')?;
    Some((filesystem, SnapshotId(hex(snapshot)?)))
}

/// Splits `<filesystem>@<32 hex digits>`; other snapshots (somebody's own) give `None`.
pub(crate) fn parse_snapshot(name: &str) -> Option<(&str, SnapshotId)> {
    let (filesystem, snapshot) = name.split_once('@')?;
    Some((filesystem, SnapshotId(hex(snapshot)?)))
}

/// Exactly the form that `to_hex` writes, so that a name and an id stand for each other.
pub(crate) fn hex(text: &str) -> Option<Uuid> {
    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    digits.then(|| Uuid::try_parse(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Layout {
        Layout::new("tank/store", Path::new("/mnt/ds")).unwrap()
    }

    proptest! {
        #[test]
        fn names_are_read_back(a: u128, b: u128) {
            let (volume, snapshot, task) = (VolumeId(Uuid::from_u128(a)), SnapshotId(Uuid::from_u128(b)), TaskId(Uuid::from_u128(b)));
            for place in [Place::Main(volume), Place::Branch(volume, snapshot), Place::Task(task, volume), Place::Reading(snapshot)] {
                let name = layout().filesystem(place);
                prop_assert_eq!(layout().parse(&name), Some(place));
                let full = snapshot_name(&name, snapshot);
                prop_assert!(full.len() < 256);
                prop_assert_eq!(parse_snapshot(&full), Some((name.as_str(), snapshot)));
                let bookmark = bookmark_name(&name, snapshot);
                prop_assert_eq!(parse_bookmark(&bookmark), Some((name.as_str(), snapshot)));
            }
        }

        #[test]
        fn no_name_makes_it_panic(name in ".{0,80}") {
            let _ = layout().parse(&name);
            let _ = layout().parse(&format!("tank/store/{name}"));
            let _ = (parse_snapshot(&name), parse_bookmark(&name));
        }
    }

    #[test]
    fn roots_that_would_be_options_or_escapes_are_refused() {
        for root in ["", "-r", "tank/", "/tank", "tank//x", "tank/../x", "tank/x@y", "tank/a b", "tank/%x"] {
            assert!(Layout::new(root, Path::new("/m")).is_err(), "{root}");
        }
        assert_eq!(Layout::new("tank/a.b/c-1", Path::new("/m")).unwrap().pool(), "tank");
    }

    #[test]
    fn folders_are_no_volumes() {
        for folder in layout().folders() {
            assert_eq!(layout().parse(&folder), None);
        }
        assert_eq!(layout().parse("tank/store/v/0123456789ABCDEF0123456789ABCDEF"), None);
    }
}
