//! Where things come from: what was declared against what happened, and the walk back from a run.
//!
//! A run declares the paths that it read and wrote. A path that was read stands for a version: the newest commit at or
//! before the task's base in which that path changed, and the run that wrote it there, if one did. [`Evidence`] compares a
//! task's records with the files that really changed; [`Walk`] goes from a run to the runs that its inputs come from.
//!
//! An input may be another project's file ([`FileReference`]): then it stands for the newest version on that project's main
//! line when the run is recorded, or for the one that a commit had. [`unresolved`] says which of them were not found.

mod walk;

use std::collections::{HashMap, HashSet};

pub use walk::{MAX_NODES, ReadFile, RunFacts, Walk};

use crate::{
    api::{ChangeKind, FileChange, RunFile},
    record::{FileReference, RunRecord},
};

/// Paths that one kind of conflict names; the rest are counted.
const MAX_NAMED: usize = 20;

/// What a task's records declared and what its files say, to be compared record by record.
#[derive(Debug)]
pub struct Evidence<'a> {
    changes: HashMap<&'a str, ChangeKind>,
    /// Folders that a change is in.
    changed_folders: HashSet<&'a str>,
    /// Folders that a file is in which was added or modified.
    written_folders: HashSet<&'a str>,
    /// What some record of the task wrote.
    written: HashSet<&'a str>,
    /// What is said of the files that changed, but that no record names.
    undeclared: Vec<String>,
}

impl<'a> Evidence<'a> {
    /// Takes all records that a task published and all changes that its commit made.
    ///
    /// A file that nobody declared is a conflict of every record, since any of them may have written it; but not where
    /// nothing was declared at all: so run programs that know nothing of records.
    pub fn new(records: impl Iterator<Item = &'a RunRecord> + Clone, changes: &'a [FileChange]) -> Self {
        let declares_anything = records
            .clone()
            .any(|r| !(r.inputs.is_empty() && r.references.is_empty() && r.outputs.is_empty()));
        let declared: HashSet<&str> = records
            .clone()
            .flat_map(|record| record.outputs.iter().chain(&record.inputs))
            .map(String::as_str)
            .collect();
        let scripts: HashSet<&str> =
            records.clone().filter_map(|record| record.workload_file.as_deref()).collect();
        let known = |path: &&str| {
            scripts.contains(path) || declared.contains(path) || folders(path).any(|f| declared.contains(f))
        };
        let paths = || changes.iter().map(|change| change.path.as_str());
        let mut undeclared = Vec::new();
        if declares_anything {
            tell(&mut undeclared, paths().filter(|path| !known(path)), "changed, but no run declared it");
        }
        Self {
            changes: changes.iter().map(|change| (change.path.as_str(), change.change)).collect(),
            changed_folders: paths().flat_map(folders).collect(),
            written_folders: changes
                .iter()
                .filter(|change| change.change != ChangeKind::Removed)
                .flat_map(|change| folders(&change.path))
                .collect(),
            written: records.flat_map(|record| &record.outputs).map(String::as_str).collect(),
            undeclared,
        }
    }

    /// Whether a path, or something below it, is there after the task and differs from its base.
    pub fn is_written(&self, path: &str) -> bool {
        self.changes.get(path).is_some_and(|change| *change != ChangeKind::Removed)
            || self.written_folders.contains(path)
    }

    /// Where one of the records and the files differ; texts for people. `inputs` are the record's inputs as resolved
    /// against the task's base.
    pub fn conflicts(&self, record: &RunRecord, inputs: &[RunFile]) -> Vec<String> {
        let mut texts = Vec::new();
        let outputs = || record.outputs.iter().map(String::as_str);
        let change = |path: &str| self.changes.get(path).copied();

        let unchanged =
            outputs().filter(|path| change(path).is_none() && !self.changed_folders.contains(path));
        tell(&mut texts, unchanged, "declared as an output, but did not change");

        let removed = outputs().filter(|path| change(path) == Some(ChangeKind::Removed));
        tell(&mut texts, removed, "declared as an output, but was removed");

        let own = |file: &&RunFile| !FileReference::is_meant_by(&file.path);
        let read = || inputs.iter().filter(own).filter(|file| !self.written.contains(file.path.as_str()));
        let changed = read()
            .map(|file| file.path.as_str())
            .filter(|path| matches!(change(path), Some(ChangeKind::Modified | ChangeKind::Removed)));
        tell(&mut texts, changed, "declared as an input, but changed during the task");

        let missing = read().filter(|file| file.commit.is_none()).map(|file| file.path.as_str());
        let missing = missing.filter(|path| change(path).is_none() && !self.changed_folders.contains(path));
        tell(&mut texts, missing, "declared as an input, but no commit has it");
        texts.extend(unresolved(inputs));

        texts.extend_from_slice(&self.undeclared);
        texts
    }
}

/// What is said of inputs that are other projects' files and were not found. It is the same whether the author may not see
/// the project or there is none.
pub fn unresolved(inputs: &[RunFile]) -> Vec<String> {
    let mut texts = Vec::new();
    let elsewhere =
        inputs.iter().filter(|file| file.commit.is_none() && FileReference::is_meant_by(&file.path));
    tell(
        &mut texts,
        elsewhere.map(|file| file.path.as_str()),
        "declared as an input, but the run's author can see no such file, commit or project",
    );
    texts
}

/// The folders that a path is in, innermost first.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/'), |(folder, _)| folder.rsplit_once('/'))
        .map(|(folder, _)| folder)
}

fn tell<'a>(texts: &mut Vec<String>, paths: impl Iterator<Item = &'a str>, what: &str) {
    let mut left = 0_usize;
    for (index, path) in paths.enumerate() {
        if index < MAX_NAMED {
            texts.push(format!("{path}: {what}"));
        } else {
            left += 1;
        }
    }
    if left > 0 {
        texts.push(format!("and {left} more: {what}"));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::CommitId;

    fn change(path: &str, change: ChangeKind) -> FileChange {
        FileChange { path: path.into(), change, size_bytes: 1 }
    }

    fn record(inputs: &[&str], outputs: &[&str]) -> RunRecord {
        let own = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        RunRecord { inputs: own(inputs), outputs: own(outputs), ..RunRecord::default() }
    }

    fn known(path: &str) -> RunFile {
        RunFile { path: path.into(), commit: Some(CommitId(Uuid::from_u128(1))), written_by: None }
    }

    fn told(records: &[RunRecord], index: usize, inputs: &[RunFile], changes: &[FileChange]) -> Vec<String> {
        Evidence::new(records.iter(), changes).conflicts(&records[index], inputs)
    }

    #[test]
    fn what_was_declared_and_happened_is_no_conflict() {
        let record = record(&["a.csv"], &["m.pkl", "plots"]);
        let changes = [change("m.pkl", ChangeKind::Added), change("plots/1.png", ChangeKind::Added)];
        assert_eq!(told(&[record], 0, &[known("a.csv")], &changes), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        let one = record(&["a.csv", "b.csv"], &["m.pkl", "old.pkl"]);
        let changes = [
            change("a.csv", ChangeKind::Modified),
            change("old.pkl", ChangeKind::Removed),
            change("x", ChangeKind::Added),
        ];
        let missing = RunFile { path: "b.csv".into(), commit: None, written_by: None };
        assert_eq!(
            told(&[one], 0, &[known("a.csv"), known("old.pkl"), missing], &changes),
            [
                "m.pkl: declared as an output, but did not change",
                "old.pkl: declared as an output, but was removed",
                "a.csv: declared as an input, but changed during the task",
                "b.csv: declared as an input, but no commit has it",
                "x: changed, but no run declared it",
            ]
        );
    }

    #[test]
    fn a_file_of_another_project_is_compared_with_no_change_of_this_one() {
        let reads = RunRecord {
            references: vec![FileReference::parse("ds://prices/x").unwrap()],
            ..RunRecord::default()
        };
        let mut input = known("ds://prices/x");
        let changes = [change("x", ChangeKind::Modified)];
        let undeclared = "x: changed, but no run declared it";
        assert_eq!(told(std::slice::from_ref(&reads), 0, &[input.clone()], &changes), [undeclared]);
        input.commit = None;
        let missing = "ds://prices/x: declared as an input, but the run's author can see no such file, commit or project";
        assert_eq!(told(&[reads], 0, &[input], &changes), [missing, undeclared]);
    }

    #[test]
    fn a_file_that_one_run_of_the_task_writes_and_another_reads_is_no_conflict() {
        let writes = record(&[], &["mid.csv"]);
        let reads = record(&["mid.csv"], &[]);
        let missing = RunFile { path: "mid.csv".into(), commit: None, written_by: None };
        let changes = [change("mid.csv", ChangeKind::Modified)];
        let records = [writes, reads];
        assert_eq!(told(&records, 1, &[missing], &changes), [""; 0]);
    }

    #[test]
    fn a_folder_is_written_where_something_in_it_is() {
        let changes = [change("a/b/c", ChangeKind::Added), change("old/x", ChangeKind::Removed)];
        let evidence = Evidence::new([].into_iter(), &changes);
        for path in ["a", "a/b", "a/b/c"] {
            assert!(evidence.is_written(path), "{path}");
        }
        for path in ["a/bc", "old", "old/x", "c"] {
            assert!(!evidence.is_written(path), "{path}");
        }
    }

    #[test]
    fn many_are_counted_and_a_program_that_declares_nothing_has_none() {
        let changes: Vec<_> = (0..50).map(|n| change(&format!("f{n}"), ChangeKind::Added)).collect();
        let one = record(&["a"], &[]);
        let texts = told(&[one], 0, &[known("a")], &changes);
        assert_eq!(texts.len(), 21);
        assert_eq!(texts[20], "and 30 more: changed, but no run declared it");
        assert_eq!(told(&[RunRecord::default()], 0, &[], &changes), [""; 0]);
    }
}
