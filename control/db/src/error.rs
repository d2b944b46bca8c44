//! What can go wrong.

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the metadata could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing by that id or name, or nothing that the asking person may see.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// The noun: `task`, `run`, ...
        what: &'static str,
        /// As it was asked for.
        id: String,
    },
    /// Something else got there first, or what is asked for contradicts what is stored; the text is for people.
    #[error("{0}")]
    Conflict(String),
    /// A short id that several things share.
    #[error("{prefix:?} is the start of several {what} ids: give more of it")]
    Ambiguous {
        /// The noun.
        what: &'static str,
        /// As it was asked for.
        prefix: String,
    },
    /// A cursor, filter or id prefix that makes no sense; the text is for people.
    #[error("{0}")]
    Invalid(String),
    /// A piece of log beyond the end of what is stored: what lies between is missing.
    #[error("log bytes from {stored} to {offset} of task {task} are missing: send them first")]
    LogGap {
        /// Whose log.
        task: ds_domain::TaskId,
        /// Bytes stored.
        stored: u64,
        /// Where the refused piece starts.
        offset: u64,
    },
    /// The database refused or is out of reach.
    #[error("the metadata database failed")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error(
        "the metadata database could not be brought to this version's schema; was it used by a newer one?"
    )]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A stored value that this program cannot read.
    #[error("the metadata database holds a {what} that this version cannot read: {value:?}")]
    Corrupt {
        /// The column's meaning.
        what: &'static str,
        /// What is stored.
        value: String,
    },
}

impl Error {
    /// Whether the same call may succeed a moment later: the database was busy, restarting or out of reach.
    pub fn is_retryable(&self) -> bool {
        let Self::Database(error) = self else { return false };
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(inner) => inner.code().is_some_and(|code| {
                // SQLite: BUSY and LOCKED with their variants. PostgreSQL: serialization, deadlock, connection, shutdown.
                let sqlite = code.parse::<u32>().is_ok_and(|n| code.len() < 5 && matches!(n & 0xff, 5 | 6));
                sqlite
                    || matches!(&*code, "40001" | "40P01" | "57P01" | "57P02" | "57P03")
                    || code.starts_with("08")
            }),
            _ => false,
        }
    }
}
