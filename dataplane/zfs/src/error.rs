//! What can go wrong, in the kinds that callers tell apart, and how ZFS's words are sorted into them.

use std::{fmt, io, path::PathBuf};

use ds_domain::ids::{SnapshotId, VolumeId};

use crate::{BadBeginning, BadStream, NoMode, SnapshotGuid, StreamMode};

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A command of ZFS that failed, and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The command with its arguments, for people.
    pub command: String,
    /// What it wrote on stderr, at most a few KiB.
    pub said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` said: {}", self.command, self.said)
    }
}

/// Why an operation on volumes or pools failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The programs are missing.
    #[error(
        "`{program}` was not found: install OpenZFS, or zfs-fuse where its kernel module is not available"
    )]
    NotInstalled {
        /// `zfs` or `zpool`.
        program: &'static str,
    },
    /// The programs are there, what they talk to is not.
    #[error("ZFS does not answer: start the zfs-fuse daemon or load the zfs module ({0})")]
    NotRunning(Failure),
    /// No such pool.
    #[error(
        "there is no pool {pool:?}: create it with `zpool create`, or import it with `zpool import {pool}`"
    )]
    PoolMissing {
        /// The pool's name.
        pool: String,
    },
    /// A dataset name that cannot be a node's root.
    #[error(
        "{root:?} cannot be a root dataset: expected a name such as tank/dotstream of letters, digits and _ - . :"
    )]
    InvalidRoot {
        /// The name as given.
        root: String,
    },
    /// A snapshot that is not on this pool.
    #[error("snapshot {snapshot} of volume {volume} is not on this pool")]
    SnapshotMissing {
        /// Its volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A dataset that should be there is not.
    #[error("a dataset does not exist: {0}")]
    NotFound(Failure),
    /// A dataset that should not be there is.
    #[error("a dataset exists already: {0}")]
    Exists(Failure),
    /// The snapshot to be received or made is here already.
    #[error("snapshot {snapshot} of volume {volume} is on this pool already")]
    AlreadyHere {
        /// Its volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Only branches are dropped; the main line goes with its volume.
    #[error("snapshot {snapshot} is on the main line of volume {volume}: drop the volume, or leave it")]
    OnMainLine {
        /// Its volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// In use by a process, a send or a receive; it may work later.
    #[error("a dataset is busy, try again when nothing uses it: {0}")]
    Busy(Failure),
    /// Clones hang on it.
    #[error("clones depend on it, drop those first: {0}")]
    HasDependents(Failure),
    /// The pool (or a quota) is full.
    #[error("no space left in the pool: free some or add a disk ({0})")]
    NoSpace(Failure),
    /// The stream starts from something that is not the newest snapshot of a filesystem here: plan again.
    #[error("the stream does not fit what is on this pool, plan it again: {0}")]
    WrongBase(Failure),
    /// The stream is not one, is cut short, or fails its checksum.
    #[error("the stream is damaged or incomplete: {0}")]
    DamagedStream(Failure),
    /// The stream is not the planned one, by what it says of itself; ZFS has not seen any of it.
    #[error("the stream of snapshot {snapshot} is not let in")]
    Refused {
        /// The planned one: its id, or its name in a tree.
        snapshot: String,
        /// Why.
        #[source]
        source: BadBeginning,
    },
    /// The filesystem at this end was received in another mode, in which alone it can go on.
    #[error(
        "volume {volume} goes on with {found} streams here, the plan says {planned}: plan it again with those"
    )]
    OtherMode {
        /// The volume.
        volume: VolumeId,
        /// The plan's.
        planned: StreamMode,
        /// The filesystem's.
        found: StreamMode,
    },
    /// The same of a dataset in a tree.
    #[error(
        "{dataset} goes on with {found} streams here, and {planned} ones were to come: plan it again with those"
    )]
    OtherTreeMode {
        /// Its full name.
        dataset: String,
        /// What was to come.
        planned: StreamMode,
        /// The filesystem's.
        found: StreamMode,
    },
    /// What names no dataset or snapshot of a tree.
    #[error(
        "{0:?} cannot be a name in a tree: it takes letters, digits and _ - . : and blanks, and slashes between names of datasets"
    )]
    InvalidName(String),
    /// What is being received into the same filesystem.
    #[error("another stream is being received into {dataset}: try again later")]
    TreeUnderWay {
        /// Its full name.
        dataset: String,
    },
    /// What broke off cannot go on: its token leads elsewhere, or nowhere.
    #[error(
        "the half-received stream of {dataset} cannot be gone on with: give it up and send from the start"
    )]
    StaleTreeToken {
        /// Its full name.
        dataset: String,
    },
    /// It must not, or cannot, be sent so.
    #[error("volume {volume} is not sent")]
    NoMode {
        /// The volume.
        volume: VolumeId,
        /// Why.
        #[source]
        source: NoMode,
    },
    /// A replica whose encryption was changed here: what its source sends raw would not fit it any more.
    #[error(
        "the encryption of volume {volume} was changed here (its root is {root}), so nothing raw can be received on it:         receive it anew as another volume"
    )]
    OtherKey {
        /// The volume.
        volume: VolumeId,
        /// The dataset whose key it uses.
        root: String,
    },
    /// There is no half-received stream to go on with, or it is another one: start over.
    #[error(
        "the receive of snapshot {snapshot} of volume {volume} cannot be gone on with: send it from its start"
    )]
    StaleToken {
        /// Its volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Asked for what this machine's ZFS has not.
    #[error("{version} cannot do this: it needs {what}")]
    Unsupported {
        /// As ZFS names itself.
        version: String,
        /// What is missing.
        what: &'static str,
    },
    /// The stream is damaged or stopped too early, by its own records and checksums.
    #[error("the stream did not arrive whole, send it again")]
    Broken(#[from] BadStream),
    /// Somebody else in this process is receiving it, or into the same filesystem.
    #[error(
        "snapshot {snapshot} of volume {volume}, or one beside it, is being received already: try again later"
    )]
    UnderWay {
        /// Its volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// What arrived is another snapshot than the plan said; it was destroyed again.
    #[error(
        "received snapshot {snapshot} with GUID {found}, the plan said {expected}: it was destroyed again"
    )]
    WrongGuid {
        /// The id, or the name in a tree, under which it was received.
        snapshot: String,
        /// The plan's.
        expected: SnapshotGuid,
        /// What ZFS reports.
        found: SnapshotGuid,
    },
    /// Anything else that ZFS refused.
    #[error("ZFS refused: {0}")]
    Failed(Failure),
    /// ZFS answered with something that this program does not understand.
    #[error("ZFS gave an unexpected answer: {0}")]
    Unexpected(Failure),
    /// A pipe, a process or a file of this machine.
    #[error("could not {action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A listing that cannot be read.
    #[error(transparent)]
    Listing(#[from] crate::replication::BadListing),
    /// A file that holds no manifest.
    #[error("{path} is not a manifest of this program: remove it and walk the tree again")]
    InvalidManifest {
        /// The file.
        path: PathBuf,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody's help; [`Error::WrongBase`] and [`Error::OtherMode`] with a new
    /// plan, [`Error::StaleToken`] from the stream's start.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Busy(_)
                | Self::UnderWay { .. }
                | Self::TreeUnderWay { .. }
                | Self::OtherTreeMode { .. }
                | Self::StaleTreeToken { .. }
                | Self::WrongBase(_)
                | Self::OtherMode { .. }
                | Self::StaleToken { .. }
                | Self::DamagedStream(_)
                | Self::Broken(_)
                | Self::NotRunning(_)
        )
    }

    /// Whether the dataset, snapshot or pool that was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::SnapshotMissing { .. } | Self::PoolMissing { .. })
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Sorts what a failed command said (in the C locale) into the kinds above.
    pub(crate) fn from_failure(failure: Failure) -> Self {
        type Kind = (&'static [&'static str], fn(Failure) -> Error);
        const KINDS: [Kind; 10] = [
            (
                &["daemon is running", "modules are not loaded", "initialize ZFS library", "/dev/zfs"],
                Error::NotRunning,
            ),
            (&["out of space", "No space left", "quota exceeded"], Error::NoSpace),
            (
                &[
                    "match incremental source",
                    "has been modified",
                    "incremental source",
                    "local origin for clone",
                ],
                Error::WrongBase,
            ),
            (&["dependent clones", "has children"], Error::HasDependents),
            (
                &[
                    "checksum mismatch",
                    "invalid backup stream",
                    "failed to read from stream",
                    "invalid stream",
                    "incomplete stream",
                ],
                Error::DamagedStream,
            ),
            (&["is busy", "currently in use", "it's being held"], Error::Busy),
            // What OpenZFS says of a bookmark that is not there.
            (&["no such pool or dataset"], Error::NotFound),
            (&["no such pool"], |failure| Error::PoolMissing { pool: quoted(&failure.said) }),
            (&["does not exist", "could not find any snapshots"], Error::NotFound),
            (&["already exists", "' exists"], Error::Exists),
        ];
        let kind =
            KINDS.iter().find(|(phrases, _)| phrases.iter().any(|phrase| failure.said.contains(phrase)));
        match kind {
            Some((_, error)) => error(failure),
            None => Self::Failed(failure),
        }
    }
}

/// The last name in single quotes, from which the pool is the first component.
fn quoted(said: &str) -> String {
    let name = said.rsplit('\'').nth(1).unwrap_or("?");
    name.split(['/', '@']).next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(said: &str) -> Error {
        Error::from_failure(Failure { command: "zfs".to_owned(), said: said.to_owned() })
    }

    #[test]
    fn words_of_both_implementations_are_sorted() {
        assert!(matches!(said("cannot receive new filesystem stream: out of space"), Error::NoSpace(_)));
        assert!(matches!(
            said(
                "cannot receive incremental stream: most recent snapshot of p/v does not\nmatch incremental source"
            ),
            Error::WrongBase(_)
        ));
        assert!(matches!(
            said("warning: cannot send 'p@b': incremental source (@a) does not exist"),
            Error::WrongBase(_)
        ));
        assert!(matches!(said("cannot open 'p/v': dataset does not exist"), Error::NotFound(_)));
        assert!(matches!(said("cannot open 'p/v#a': no such pool or dataset"), Error::NotFound(_)));
        assert!(matches!(said("cannot create 'p/v': dataset already exists"), Error::Exists(_)));
        assert!(matches!(
            said(
                "cannot receive new filesystem stream: destination 'p/v' exists\nmust specify -F to overwrite it"
            ),
            Error::Exists(_)
        ));
        assert!(matches!(said("cannot rename 'p/v': dataset is busy"), Error::Busy(_)));
        assert!(matches!(said("umount: /m/x: target is busy."), Error::Busy(_)));
        assert!(matches!(
            said("cannot destroy snapshot p/v@a: it's being held. Run 'zfs holds -r p/v@a' to see holders."),
            Error::Busy(_)
        ));
        assert!(matches!(
            said("cannot destroy 'p/v@a': snapshot has dependent clones"),
            Error::HasDependents(_)
        ));
        assert!(matches!(
            said("cannot receive new filesystem stream: invalid stream (checksum mismatch)"),
            Error::DamagedStream(_)
        ));
        assert!(matches!(
            said("connect: No such file or directory\nPlease make sure that the zfs-fuse daemon is running."),
            Error::NotRunning(_)
        ));
        assert!(matches!(said("something new"), Error::Failed(_)));
    }

    #[test]
    fn a_missing_pool_is_named() {
        let error = said("cannot create 'nopool/x': no such pool 'nopool'");
        assert!(matches!(&error, Error::PoolMissing { pool } if pool == "nopool"));
        assert!(error.is_not_found() && !error.is_retryable());
    }
}
