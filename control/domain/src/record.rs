//! Run records: what a workload prints to say what it did.
//!
//! ```text
//! [[DOTSCIENCE-RUN:<uuid>]]{ JSON }[[/DOTSCIENCE-RUN:<uuid>]]
//! ```
//!
//! [`RecordParser`] finds records in a stream of bytes, however it is split and whatever lies between; [`RunRecord::parse`]
//! reads one; [`FileReference`] is an input that is another project's file. The format is that of the `PyPI` package `dotscience` 0.8.7.

mod reference;
mod run;
mod scan;

use std::fmt;

pub use reference::FileReference;
pub use run::{RecordError, RunRecord, relative_path};
pub use scan::{Item, MAX_RECORD_BYTES, RecordParser};

use crate::RunId;

/// Something that a workload should know about its records; reading goes on. Shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordProblem {
    /// The output, or the room for records within records, ended first.
    NotClosed(RunId),
    /// Larger than [`MAX_RECORD_BYTES`].
    TooLong(RunId),
    /// A closing tag alone.
    NotOpened(RunId),
    /// What stands where a tag's id should be.
    BadId(String),
    /// A path that does not name a file in the workspace.
    BadPath {
        /// As it was recorded.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A field of the wrong type, which was left out.
    BadField(&'static str),
    /// A name that was cut, at this many bytes.
    LongName {
        /// What is left of it.
        name: String,
        /// Bytes.
        limit: usize,
    },
    /// More paths of one kind than a record may declare; the others were left out.
    TooManyPaths {
        /// How many were.
        left_out: usize,
        /// How many a record may declare.
        limit: usize,
    },
    /// Bytes or characters that no database keeps were replaced by `U+FFFD`.
    BadText,
}

impl fmt::Display for RecordProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotClosed(id) => write!(f, "run record {id} has no closing tag and was left out"),
            Self::TooLong(id) => {
                write!(f, "run record {id} is over {} MiB and was left out", MAX_RECORD_BYTES >> 20)
            }
            Self::NotOpened(id) => write!(f, "a closing tag of run record {id} has no opening tag"),
            Self::BadId(text) => {
                write!(f, "a run record's tag has {text:?} where a UUID should be; it was left out")
            }
            Self::BadPath { path, why } => write!(f, "the path {path:?} was left out: {why}"),
            Self::BadField(name) => {
                write!(f, "the field {name:?} of the run record has the wrong type and was left out")
            }
            Self::LongName { name, limit } => write!(f, "a name of over {limit} bytes was cut to {name:?}"),
            Self::TooManyPaths { left_out, limit } => {
                write!(f, "more than {limit} paths were declared: {left_out} were left out")
            }
            Self::BadText => {
                write!(f, "text that is not UTF-8, or that contains NUL, was replaced by U+FFFD")
            }
        }
    }
}
