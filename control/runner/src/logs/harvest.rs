//! The run records in a command's output.

use ds_domain::record::{Item, RecordParser};
use ds_proto::v1;

use crate::docker::Source;

/// Bytes of records that one task may publish: all of them travel in one message.
const RECORDS_LIMIT_BYTES: usize = 16 << 20;
/// Warnings that are kept; the rest is counted.
const WARNINGS_LIMIT: usize = 100;

/// Collects the records of a log as it is read. Only standard output counts.
#[derive(Default)]
pub(super) struct Harvest {
    parser: RecordParser,
    found: Found,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<v1::Record>,
    pub(crate) warnings: Vec<String>,
    bytes: usize,
    left_out: usize,
    more_warnings: usize,
}

impl Harvest {
    pub(super) fn add(&mut self, source: Source, bytes: &[u8]) {
        if source == Source::Stdout {
            let found = &mut self.found;
            self.parser.push(bytes, &mut |item| found.add(item));
        }
    }

    /// The log is over.
    pub(super) fn finish(mut self) -> Found {
        let found = &mut self.found;
        self.parser.finish(&mut |item| found.add(item));
        if found.more_warnings > 0 {
            found.warnings.push(format!("and {} more problems with run records", found.more_warnings));
        }
        if found.left_out > 0 {
            found.warnings.push(format!(
                "{} run records were left out: a task may publish {} MiB of them",
                found.left_out,
                RECORDS_LIMIT_BYTES >> 20
            ));
        }
        self.found
    }
}

impl Found {
    fn add(&mut self, item: Item) {
        match item {
            Item::Record { json, .. } if self.bytes + json.len() > RECORDS_LIMIT_BYTES => self.left_out += 1,
            Item::Record { id, json } => {
                self.bytes += json.len();
                self.records.push(v1::Record { run_id: id.to_bytes(), json });
            }
            Item::Problem(_) if self.warnings.len() >= WARNINGS_LIMIT => self.more_warnings += 1,
            Item::Problem(problem) => self.warnings.push(problem.to_string()),
        }
    }
}
