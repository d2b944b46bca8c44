//! Pages of runs: filtered, sorted, out of many.

use ds_domain::{
    ProjectId,
    api::{Page, Run},
};

use crate::{Db, Error, Result, run_page::page_of};

/// Which of a run's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A setting.
    Parameter,
    /// A result.
    Metric,
    /// A label.
    Label,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The same text, or the same number.
    Equal,
    /// Has a value, and another one.
    NotEqual,
    /// A number below.
    Less,
    /// A number not above.
    AtMost,
    /// A number above.
    Greater,
    /// A number not below.
    AtLeast,
    /// The text contains this text.
    Contains,
    /// Has a value; `value` is not looked at.
    Exists,
}

impl Kind {
    /// The word in the database.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Parameter => "p",
            Self::Metric => "m",
            Self::Label => "l",
        }
    }
}

/// One condition; a run has to meet all.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// Which kind of value.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// How it is compared.
    pub op: Op,
    /// With what. Texts are compared by their first 200 bytes.
    pub value: String,
}

/// What a page is sorted by. Of a value, numbers come before other texts, and runs without it come last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sort {
    /// When it was recorded.
    #[default]
    Created,
    /// A value's name.
    Value(Kind, String),
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct RunQuery {
    /// All have to hold.
    pub filters: Vec<Filter>,
    /// By what.
    pub sort: Sort,
    /// Largest or newest first.
    pub descending: bool,
    /// Runs a page: 1 to 1,000.
    pub limit: u32,
    /// `next` of the page before, asked with the same filters and sort.
    pub cursor: Option<String>,
}

impl Db {
    /// A page of a project's runs.
    pub async fn list_runs(&self, project: ProjectId, query: &RunQuery) -> Result<Page<Run>> {
        if !(1..=1000).contains(&query.limit) {
            return Err(Error::Invalid(format!("a page of {} runs: ask for 1 to 1,000", query.limit)));
        }
        let (ids, next) = page_of(self, project, query).await?;
        Ok(Page { items: self.runs(&ids).await?, next })
    }
}
