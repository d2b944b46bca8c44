//! What can go wrong in a runner, in words that say what to do.

use std::{io, path::PathBuf};

/// A failure of the runner itself or of one step of a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No identity is stored and no token was given.
    #[error(
        "this runner is not registered (no identity in {}): create it at the hub with `ds runner create NAME` and start it with the token that this prints",
        .dir.display()
    )]
    NotRegistered {
        /// Where the identity would lie.
        dir: PathBuf,
    },
    /// The state is in use.
    #[error("another runner uses {}: stop it, or give this one a state folder of its own", .dir.display())]
    Running {
        /// The state's folder.
        dir: PathBuf,
    },
    /// The token cannot be used.
    #[error("the registration token cannot be used: copy it whole from `ds runner create`")]
    Token(#[source] ds_link::Error),
    /// The hub could not be reached, or is not the one that made the token.
    #[error("cannot reach the hub at {address}: check that it runs and that this machine may connect to it")]
    HubUnreachable {
        /// `host:port` of the hub's gRPC.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hub answered and said no.
    #[error("the hub at {address} refused: {reason}")]
    HubRefused {
        /// `host:port` of the hub's gRPC.
        address: String,
        /// The hub's words.
        reason: String,
    },
    /// Keys or certificates.
    #[error("the runner's identity cannot be used: move its folder away and register the runner again")]
    Identity(#[source] ds_link::Error),
    /// No Docker daemon answers.
    #[error(
        "no Docker daemon answers at {host}: start it (`systemctl start docker`, or `dockerd &`), or install it (Debian: `apt install docker.io`)"
    )]
    DockerUnreachable {
        /// Where it was looked for.
        host: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
    /// Docker answered with an error.
    #[error("Docker could not {doing}")]
    Docker {
        /// What was asked of it.
        doing: String,
        /// Docker's words.
        #[source]
        source: bollard::errors::Error,
    },
    /// Somebody removed a task's container.
    #[error(
        "the task's container is gone: it was removed from Docker while the task ran. Start the task again"
    )]
    ContainerGone,
    /// Somebody destroyed a task's clone.
    #[error(
        "the task's copy of the workspace is not on the runner's pool: is the pool not imported, or was it destroyed?"
    )]
    CloneGone,
    /// Nothing says which hub the identity is for.
    #[error(
        "this runner has an identity, but its hub is not known: {} cannot be read. Restore that file, or move the folder away and register the runner again with a new token",
        .path.display()
    )]
    HubUnknown {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Docker would not start a task's container.
    #[error("Docker could not start the container")]
    NotStarted(#[source] bollard::errors::Error),
    /// The image is not to be had; the text is for people.
    #[error("{0}")]
    Image(String),
    /// The repository could not be checked out; the text is for people.
    #[error("{0}")]
    Git(String),
    /// A file of the runner's state.
    #[error("cannot {doing} {}", .path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A journal that this version cannot read. Going on would drop what belongs to its task.
    #[error(
        "the journal {} cannot be read by this version of ds ({reason}): start the version that wrote it, or move the file away to give its task up",
        .path.display()
    )]
    Journal {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Volumes on this machine.
    #[error("the runner's pool failed")]
    Volumes(#[from] ds_zfs::Error),
    /// Moving a snapshot.
    #[error("the transfer failed")]
    Transfer(#[from] ds_transfer::Error),
    /// The workspace could not be fetched, and trying again does not help.
    #[error("the workspace could not be fetched from the store")]
    NotPulled(#[source] Box<Error>),
    /// The link to a store.
    #[error("cannot reach the store at {address}")]
    Store {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: ds_link::Error,
    },
    /// The hub gave no ticket.
    #[error("the hub gave no ticket for the transfer: {0}")]
    Ticket(String),
}

impl Error {
    /// Whether the same step may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            // A file: the disk of the state may have room again.
            Self::HubUnreachable { .. } | Self::DockerUnreachable { .. } | Self::File { .. } => true,
            Self::Store { source, .. } => source.is_retryable(),
            Self::Transfer(source) => source.is_retryable(),
            Self::Volumes(source) => source.is_retryable(),
            _ => false,
        }
    }
}

/// The crate's result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// One line with an error and all its causes, for people.
pub(crate) fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        // Some crates repeat the inner text in the outer one.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = inner.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = io::Error::other("no space left");
        let error = Error::File { doing: "write", path: "/x/journal.json".into(), source: inner };
        assert_eq!(explain(&error), "cannot write /x/journal.json: no space left");
    }
}
