//! The runs of a task: what its workload published, or, where it published nothing, what the hub derives.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ds_db::TaskRow;
use ds_domain::{
    CommitId, RunId,
    api::{ChangeKind, FileChange, Run, RunFile, User},
    provenance::Evidence,
    record::RunRecord,
    task::Outcome,
};
use ds_proto::v1::{Record, TaskFinished};
use uuid::Uuid;

use super::metadata::time_text;
use crate::{
    core::Core,
    inputs::{ForeignResolver, Resolver, found},
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
    pub(super) changes: Arc<Vec<FileChange>>,
}

/// A record with the versions of its files.
struct Resolved {
    id: RunId,
    record: RunRecord,
    inputs: Vec<RunFile>,
    outputs: Vec<RunFile>,
}

/// The runs that the workload published, in their order.
pub(super) async fn runs(
    core: &Core,
    result: &TaskResult<'_>,
    records: Vec<Record>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Run>, ds_db::Error> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let changes = Arc::clone(&result.changes);
    let (records, written, said) = off_thread(move || read(records, &changes)).await;
    warnings.extend(said);
    let author = found(core.db.user_by_name(&result.row.task.author).await)?;
    let mut files = Files::new(core, result, author.as_ref(), written);
    let mut resolved = Vec::with_capacity(records.len());
    for (id, record) in records {
        let (inputs, outputs) = (files.inputs(&record).await?, files.outputs(&record).await?);
        files.published(id, &record);
        resolved.push(Resolved { id, record, inputs, outputs });
    }
    let changes = Arc::clone(&result.changes);
    let judged = off_thread(move || judge(resolved, &changes)).await;
    let run = |(resolved, conflicts): (Resolved, Vec<String>)| {
        let Resolved { id, record, inputs, outputs } = resolved;
        let run = run_of(record, &origin(result, id, "workload"), inputs, outputs);
        Run {
            commit: result.commit,
            task: Some(result.row.task.id),
            success: run.success && result.outcome == Outcome::Succeeded,
            conflicts,
            ..run
        }
    };
    Ok(judged.into_iter().map(run).collect())
}

/// A result may have hundreds of megabytes: what is computed on all of it must not hold up other sessions.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("records and changes are read without a panic")
}

/// The records, which of the paths that they declare were written, and what was wrong.
fn read(
    records: Vec<Record>,
    changes: &[FileChange],
) -> (Vec<(RunId, RunRecord)>, HashSet<String>, Vec<String>) {
    let mut warnings = Vec::new();
    let records = parse(records, &mut warnings);
    let evidence = Evidence::new(records.iter().map(|(_, record)| record), changes);
    let declared = records.iter().flat_map(|(_, record)| record.inputs.iter().chain(&record.outputs));
    let written = declared.filter(|path| evidence.is_written(path)).cloned().collect();
    (records, written, warnings)
}

/// Each record with where it and the files differ.
fn judge(resolved: Vec<Resolved>, changes: &[FileChange]) -> Vec<(Resolved, Vec<String>)> {
    let evidence = Evidence::new(resolved.iter().map(|resolved| &resolved.record), changes);
    let conflicts: Vec<_> =
        resolved.iter().map(|resolved| evidence.conflicts(&resolved.record, &resolved.inputs)).collect();
    resolved.into_iter().zip(conflicts).collect()
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

/// The run of a task that published none of its own: its command, how it went and what it changed.
pub(super) fn derived(result: &TaskResult<'_>, finished: &TaskFinished) -> Run {
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
    // No commit has the version of a file that was removed.
    let output = |change: &FileChange| RunFile {
        path: change.path.clone(),
        commit: (change.change != ChangeKind::Removed).then_some(result.commit),
        written_by: None,
    };
    let outputs = result.changes.iter().take(DERIVED_OUTPUTS).map(output).collect();
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
    foreign: ForeignResolver<'a>,
    commit: CommitId,
    /// Declared paths that are there after the task and differ from the base, or have something below them that
    /// does.
    written: HashSet<String>,
    /// What the runs published so far wrote, and the last of them that did.
    writers: HashMap<String, RunId>,
}

impl<'a> Files<'a> {
    fn new(
        core: &'a Core,
        result: &TaskResult<'_>,
        author: Option<&'a User>,
        written: HashSet<String>,
    ) -> Self {
        Self {
            base: Resolver::new(&core.db, result.row.volume, result.base),
            foreign: ForeignResolver::new(&core.db, author),
            commit: result.commit,
            written,
            writers: HashMap::new(),
        }
    }

    /// A file that an earlier run of this task wrote is read at this commit; every other one as the base had it, or as
    /// its own project has it.
    async fn inputs(&mut self, record: &RunRecord) -> Result<Vec<RunFile>, ds_db::Error> {
        let mut files = Vec::with_capacity(record.inputs.len());
        for path in &record.inputs {
            let writer = self.writers.get(path).filter(|_| self.written.contains(path));
            files.push(match writer {
                Some(run) => {
                    RunFile { path: path.clone(), commit: Some(self.commit), written_by: Some(*run) }
                }
                None => self.base.resolve(path).await?,
            });
        }
        files.extend(self.foreign.resolve_all(&record.references).await?);
        Ok(files)
    }

    /// A file that changed is of this commit; one that did not is still the base's.
    async fn outputs(&mut self, record: &RunRecord) -> Result<Vec<RunFile>, ds_db::Error> {
        let mut files = Vec::with_capacity(record.outputs.len());
        for path in &record.outputs {
            files.push(if self.written.contains(path) {
                RunFile { path: path.clone(), commit: Some(self.commit), written_by: None }
            } else {
                RunFile { written_by: None, ..self.base.resolve(path).await? }
            });
        }
        Ok(files)
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
