use std::{io, sync::Arc};

use ds_domain::ids::NodeId;
use ds_link::Peer;
use ds_proto::v1::{Abort, AbortCode};

use crate::ticket::TicketError;

/// Why a transfer or a request of the store did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ticket was not accepted.
    #[error("the ticket does not allow the transfer")]
    Ticket(#[from] TicketError),
    /// The link failed.
    #[error("the link between the nodes failed")]
    Link(#[from] ds_link::Error),
    /// ZFS failed here.
    #[error("the volume could not be read or written")]
    Volumes(#[from] ds_zfs::Error),
    /// Bytes changed on their way, or the other end breaks the protocol of chunks.
    #[error("the stream did not arrive as it was sent")]
    Wire(#[from] ds_wire::Error),
    /// A pipe to or from ZFS failed.
    #[error("the pipe to ZFS failed")]
    Pipe(#[source] io::Error),
    /// The machine gives a transfer no thread.
    #[error("no thread for the transfer")]
    Thread(#[source] io::Error),
    /// The spool of what had arrived could not be read.
    #[error("the spool could not be read")]
    Spool(#[source] io::Error),
    /// A file of the store could not be read or written.
    #[error("could not {action} {path}")]
    File {
        /// "read", "write".
        action: &'static str,
        /// Which one.
        path: String,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
    /// The other end gave the transfer up.
    #[error("{peer} gave up: {message}")]
    Aborted {
        /// Who.
        peer: Peer,
        /// Why.
        code: AbortCode,
        /// Why, for people.
        message: String,
    },
    /// The other end says what it must not.
    #[error("{peer} breaks the protocol: {what}")]
    Protocol {
        /// Who.
        peer: Peer,
        /// How.
        what: String,
    },
    /// The snapshot that was asked for is not here.
    #[error("snapshot {0} is not on this node")]
    NoSnapshot(ds_domain::ids::SnapshotId),
    /// The tree that was to be brought elsewhere is not there.
    #[error("there is no tree to sync: {0} does not exist at the source")]
    NoTree(String),
    /// The base of the stream is not here, or another snapshot has its id.
    #[error("the stream starts from snapshot {0}, which is not on this node")]
    NoBase(ds_domain::ids::SnapshotId),
    /// Under way already, or too much is.
    #[error("{0}: try again later")]
    Busy(String),
    /// Nothing moved for a long time.
    #[error("nothing moved for {minutes} minutes: {what}")]
    Stalled {
        /// How long.
        minutes: u64,
        /// What stood still.
        what: &'static str,
    },
    /// A request of the hub was not answered in time.
    #[error("store {store} has not answered for {seconds} s")]
    Unanswered {
        /// Which one.
        store: NodeId,
        /// How long it had.
        seconds: u64,
    },
    /// A link that several requests wait for could not be made.
    #[error(transparent)]
    NotLinked(Arc<Error>),
    /// What is read once for several receivers could not be read.
    #[error(transparent)]
    Read(#[from] Arc<Error>),
    /// Our own side ended it.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// The store refused or failed a request of the hub.
    #[error("the store says: {message}")]
    Request {
        /// Of which kind.
        kind: RequestErrorKind,
        /// For people.
        message: String,
    },
}

/// What callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The ticket was not accepted: each attempt needs a ticket of its own.
    Ticket,
    /// No space left in a pool.
    Full,
    /// Digest, order, length, or the protocol.
    Corrupt,
    /// The same snapshot is under way.
    Busy,
    /// The base is missing: plan again.
    NoBase,
    /// The snapshot is missing.
    NoSnapshot,
    /// The link failed or nothing moved.
    Link,
    /// Our own side ended it.
    Cancelled,
    /// ZFS or the machine failed.
    Failed,
}

/// The kinds of the store's answers to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestErrorKind {
    /// No such volume, snapshot or path.
    NotFound,
    /// The request cannot be fulfilled, whatever the store's state.
    Invalid,
    /// No space left.
    Full,
    /// ZFS or the machine failed.
    Failed,
}

impl Error {
    /// What callers tell apart.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Ticket(_) => ErrorKind::Ticket,
            // First, since it is said over a link that is well.
            Self::Link(ds_link::Error::Frame(_)) | Self::Wire(_) | Self::Protocol { .. } => {
                ErrorKind::Corrupt
            }
            Self::Link(_) | Self::Stalled { .. } | Self::Unanswered { .. } => ErrorKind::Link,
            Self::NotLinked(e) | Self::Read(e) => e.kind(),
            Self::Volumes(e) => of_volumes(e),
            Self::Pipe(_) | Self::Thread(_) | Self::Spool(_) | Self::File { .. } => ErrorKind::Failed,
            Self::NoSnapshot(_) | Self::NoTree(_) => ErrorKind::NoSnapshot,
            Self::NoBase(_) => ErrorKind::NoBase,
            Self::Busy(_) => ErrorKind::Busy,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Aborted { code, .. } => match code {
                AbortCode::Ticket => ErrorKind::Ticket,
                AbortCode::NoBase => ErrorKind::NoBase,
                AbortCode::NoSnapshot => ErrorKind::NoSnapshot,
                AbortCode::Corrupt => ErrorKind::Corrupt,
                AbortCode::Full => ErrorKind::Full,
                AbortCode::Busy => ErrorKind::Busy,
                AbortCode::Failed | AbortCode::Unspecified => ErrorKind::Failed,
            },
            Self::Request { kind, .. } => match kind {
                RequestErrorKind::NotFound => ErrorKind::NoSnapshot,
                RequestErrorKind::Full => ErrorKind::Full,
                RequestErrorKind::Invalid | RequestErrorKind::Failed => ErrorKind::Failed,
            },
        }
    }

    /// Whether another attempt, with a new ticket, can succeed with nothing changed by a person. The caller bounds the
    /// number of attempts.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Link(e) => e.is_retryable(),
            Self::NotLinked(e) | Self::Read(e) => e.is_retryable(),
            Self::Volumes(e) => {
                e.is_retryable()
                    || matches!(of_volumes(e), ErrorKind::Busy | ErrorKind::NoBase | ErrorKind::Corrupt)
            }
            Self::Request { .. } => false,
            _ => !matches!(self.kind(), ErrorKind::Full | ErrorKind::NoSnapshot | ErrorKind::Cancelled),
        }
    }

    /// Whether it says nothing against the bytes that had arrived until then: another attempt can go on behind them.
    pub(crate) fn is_of_the_way(&self) -> bool {
        match self {
            Self::Link(_) | Self::Stalled { .. } | Self::Cancelled => true,
            Self::Aborted { code, .. } => !matches!(code, AbortCode::Corrupt),
            _ => false,
        }
    }

    /// What the other end is told.
    pub(crate) fn to_abort(&self) -> Abort {
        let code = match self.kind() {
            ErrorKind::Ticket => AbortCode::Ticket,
            ErrorKind::Full => AbortCode::Full,
            ErrorKind::Corrupt => AbortCode::Corrupt,
            ErrorKind::Busy => AbortCode::Busy,
            ErrorKind::NoBase => AbortCode::NoBase,
            ErrorKind::NoSnapshot => AbortCode::NoSnapshot,
            ErrorKind::Link | ErrorKind::Cancelled | ErrorKind::Failed => AbortCode::Failed,
        };
        Abort { code: code.into(), message: in_full(self) }
    }

    /// The label of metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self.kind() {
            ErrorKind::Ticket => "ticket",
            ErrorKind::Full => "full",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Busy => "busy",
            ErrorKind::NoBase => "no_base",
            ErrorKind::NoSnapshot => "no_snapshot",
            ErrorKind::Link => "link",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Failed => "failed",
        }
    }

    /// What another node said in an abort.
    pub(crate) fn aborted(peer: Peer, abort: Abort) -> Self {
        Self::Aborted { peer, code: abort.code(), message: abort.message }
    }

    pub(crate) fn protocol(peer: Peer, what: impl Into<String>) -> Self {
        Self::Protocol { peer, what: what.into() }
    }
}

/// Most characters of a message for another node, so that it fits a control message.
const MAX_MESSAGE_CHARS: usize = 4_000;

/// An error with its causes, for an end that sees only text.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

fn of_volumes(error: &ds_zfs::Error) -> ErrorKind {
    use ds_zfs::Error as Zfs;
    match error {
        Zfs::NoSpace(_) => ErrorKind::Full,
        // Another transfer was faster: the next attempt finds it here.
        Zfs::Busy(_) | Zfs::UnderWay { .. } | Zfs::TreeUnderWay { .. } | Zfs::AlreadyHere { .. } => {
            ErrorKind::Busy
        }
        Zfs::WrongBase(_)
        | Zfs::OtherMode { .. }
        | Zfs::StaleToken { .. }
        | Zfs::OtherTreeMode { .. }
        | Zfs::StaleTreeToken { .. } => ErrorKind::NoBase,
        Zfs::DamagedStream(_) | Zfs::Broken(_) | Zfs::Refused { .. } | Zfs::WrongGuid { .. } => {
            ErrorKind::Corrupt
        }
        Zfs::SnapshotMissing { .. } | Zfs::NotFound(_) => ErrorKind::NoSnapshot,
        _ => ErrorKind::Failed,
    }
}
