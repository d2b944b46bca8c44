//! The runs of a task: what its workload published, or, where it published nothing, what the hub derives.

use std::collections::{BTreeMap, HashMap, HashSet};

use ds_db::TaskRow;
use ds_domain::{
    CommitId, RunId,
    api::{ChangeKind, FileChange, Run, RunFile},
    provenance::conflicts,
    record::RunRecord,
    task::Outcome,
};
use ds_proto::v1::{Record, TaskFinished};
use uuid::Uuid;

use super::metadata::time_text;
use crate::{
    core::Core,
    inputs::Resolver,
    runs::{Origin, run_of},
};

/// Outputs listed with a derived run; the commit has all of its changes.
const DERIVED_OUTPUTS: usize = 1000;

/// A task that has a snapshot.
pub(super) struct TaskResult<'a> {
    pub(super) row: &'a TaskRow,
    /// The commit that is being made.
    pub(super) commit: CommitId,
    pub(super) base: CommitId,
    pub(super) outcome: Outcome,
    pub(super) changes: &'a [FileChange],
}

/// The runs, in the order in which they were published; at least one.
pub(super) async fn runs(
    core: &Core,
    result: &TaskResult<'_>,
    finished: &mut TaskFinished,
    warnings: &mut Vec<String>,
) -> Result<Vec<Run>, ds_db::Error> {
    let records = parse(std::mem::take(&mut finished.records), warnings);
    if records.is_empty() {
        return Ok(vec![derived(result, finished)]);
    }
    let mut files = Files::new(core, result);
    let all: Vec<&RunRecord> = records.iter().map(|(_, record)| record).collect();
    let mut runs = Vec::with_capacity(records.len());
    for (id, record) in &records {
        let (inputs, outputs) = (files.inputs(record).await?, files.outputs(record).await?);
        files.published(*id, record);
        let conflicts = conflicts(record, &inputs, &all, result.changes);
        let origin = origin(result, *id, "workload");
        let run = run_of(record.clone(), &origin, inputs, outputs);
        runs.push(Run {
            commit: result.commit,
            task: Some(result.row.task.id),
            success: run.success && result.outcome == Outcome::Succeeded,
            conflicts,
            ..run
        });
    }
    Ok(runs)
}

/// Reads the records; what cannot be read becomes a warning. A run that was published twice counts once, as
/// first said.
fn parse(records: Vec<Record>, warnings: &mut Vec<String>) -> Vec<(RunId, RunRecord)> {
    let mut seen = HashSet::new();
    let mut parsed = Vec::with_capacity(records.len());
    for record in records {
        let Ok(id) = RunId::from_bytes(&record.run_id) else {
            warnings.push("a run record without an id was left out".into());
            continue;
        };
        match RunRecord::parse(&record.json) {
            Ok(_) if !seen.insert(id) => {
                warnings.push(format!("run {id} was published twice: the first one counts"));
            }
            Ok(record) => {
                warnings.extend(record.problems.iter().map(|problem| format!("run {id}: {problem}")));
                parsed.push((id, record));
            }
            Err(error) => warnings.push(format!("run {id}: {}", crate::error::chain(&error))),
        }
    }
    parsed
}

fn origin<'a>(result: &'a TaskResult<'_>, id: RunId, authority: &'a str) -> Origin<'a> {
    Origin { id, project: result.row.task.project, authority, author: &result.row.task.author }
}

/// The run of a task that published none: its command, how it went and what it changed.
fn derived(result: &TaskResult<'_>, finished: &TaskFinished) -> Run {
    let labels: BTreeMap<String, String> = [
        ("image", finished.image.clone()),
        ("image.digest", finished.image_digest.clone()),
        ("exit-code", finished.exit_code.map(|code| code.to_string()).unwrap_or_default()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let ran = finished.started_ms > 0;
    let record = RunRecord {
        description: result.row.task.spec.command.join(" "),
        error: failure(result.outcome, finished),
        start: ran.then(|| time_text(finished.started_ms)),
        end: ran.then(|| time_text(finished.ended_ms)),
        labels,
        ..RunRecord::default()
    };
    let written = result.changes.iter().filter(|change| change.change != ChangeKind::Removed);
    let output = |change: &FileChange| RunFile {
        path: change.path.clone(),
        commit: Some(result.commit),
        written_by: None,
    };
    let outputs = written.take(DERIVED_OUTPUTS).map(output).collect();
    let origin = origin(result, RunId(Uuid::new_v4()), "derived");
    let run = run_of(record, &origin, Vec::new(), outputs);
    Run { commit: result.commit, task: Some(result.row.task.id), ..run }
}

fn failure(outcome: Outcome, finished: &TaskFinished) -> Option<String> {
    match (outcome, finished.exit_code) {
        (Outcome::Succeeded, _) => None,
        (Outcome::Failed, Some(code)) => Some(format!("the command returned {code}")),
        (Outcome::Cancelled, _) => Some("cancelled".into()),
        (Outcome::TimedOut, _) => Some("ended by its time limit".into()),
        _ if finished.error.is_empty() => Some("the command could not be run".into()),
        _ => Some(finished.error.clone()),
    }
}

/// Which version of each file the task's runs read and wrote.
struct Files<'a> {
    base: Resolver<'a>,
    commit: CommitId,
    /// Paths that are there after the task and differ from the base.
    written: HashSet<&'a str>,
    /// What the runs published so far wrote, and the last of them that did.
    writers: HashMap<String, RunId>,
}

impl<'a> Files<'a> {
    fn new(core: &'a Core, result: &'a TaskResult<'_>) -> Self {
        let there = result.changes.iter().filter(|change| change.change != ChangeKind::Removed);
        Self {
            base: Resolver::new(&core.db, result.row.volume, result.base),
            commit: result.commit,
            written: there.map(|change| change.path.as_str()).collect(),
            writers: HashMap::new(),
        }
    }

    /// A file that an earlier run of this task wrote is read at this commit; every other one as the base had it.
    async fn inputs(&mut self, record: &RunRecord) -> Result<Vec<RunFile>, ds_db::Error> {
        let mut files = Vec::with_capacity(record.inputs.len());
        for path in &record.inputs {
            let writer = self.writers.get(path).filter(|_| self.written.contains(path.as_str()));
            files.push(match writer {
                Some(run) => {
                    RunFile { path: path.clone(), commit: Some(self.commit), written_by: Some(*run) }
                }
                None => self.base.resolve(path).await?,
            });
        }
        Ok(files)
    }

    /// A file that changed is of this commit; one that did not is still the base's.
    async fn outputs(&mut self, record: &RunRecord) -> Result<Vec<RunFile>, ds_db::Error> {
        let mut files = Vec::with_capacity(record.outputs.len());
        for path in &record.outputs {
            files.push(if self.is_written(path) {
                RunFile { path: path.clone(), commit: Some(self.commit), written_by: None }
            } else {
                RunFile { written_by: None, ..self.base.resolve(path).await? }
            });
        }
        Ok(files)
    }

    /// Whether the path, or something below it, is of this commit.
    fn is_written(&self, path: &str) -> bool {
        let below = |file: &&str| file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        self.written.contains(path) || self.written.iter().any(below)
    }

    fn published(&mut self, run: RunId, record: &RunRecord) {
        for path in &record.outputs {
            self.writers.insert(path.clone(), run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u128, json: &str) -> Record {
        Record { run_id: RunId(Uuid::from_u128(id)).to_bytes(), json: json.as_bytes().to_vec() }
    }

    #[test]
    fn what_cannot_be_read_is_a_warning_and_the_rest_counts() {
        let mut warnings = Vec::new();
        let bad_id = Record { run_id: vec![1], json: b"{}".to_vec() };
        let records = vec![
            record(1, r#"{"parameters": {"C": "1"}, "input": ["../x"]}"#),
            record(2, "{"),
            bad_id,
            record(1, "{}"),
        ];
        let parsed = parse(records, &mut warnings);
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].1.parameters["C"], "1");
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings[0].contains("..") && warnings[3].contains("twice"), "{warnings:?}");
    }
}
