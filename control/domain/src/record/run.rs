//! Reads one record.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
};

use serde_json::{Map, Value};

use super::{FileReference, RecordProblem};
use crate::api::NewRun;

/// Names of parameters, metrics and labels may have this many bytes: they are part of a database's index.
const MAX_NAME_BYTES: usize = 500;
/// Inputs, and outputs, that one record may declare: each is looked up in the history.
const MAX_PATHS: usize = 10_000;
/// Paths may have this many bytes, as on Linux.
const MAX_PATH_BYTES: usize = 4096;

/// A record that says nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON.
    #[error("the run record is not valid JSON")]
    Json(#[source] serde_json::Error),
    /// JSON of another shape.
    #[error("the run record is JSON, but not an object")]
    NotAnObject,
}

/// What a workload said of a run. Paths are relative, without `..`, and appear once each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunRecord {
    /// For people.
    pub description: String,
    /// The script or notebook.
    pub workload_file: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// `%Y%m%dT%H%M%S.%f`, UTC by the workload's clock.
    pub start: Option<String>,
    /// Likewise.
    pub end: Option<String>,
    /// Settings.
    pub parameters: BTreeMap<String, String>,
    /// Metrics.
    pub metrics: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths read in the own workspace.
    pub inputs: Vec<String>,
    /// Files read of other projects, once each.
    pub references: Vec<FileReference>,
    /// Paths written.
    pub outputs: Vec<String>,
    /// What was left out or changed on reading.
    pub problems: Vec<RecordProblem>,
}

impl RunRecord {
    /// Reads the JSON between a record's tags. Liberal: unknown fields are ignored, `label`, `metric` and `summary` are
    /// read under each of their names, numbers and booleans become text; what cannot be read is left out and noted.
    pub fn parse(json: &[u8]) -> Result<Self, RecordError> {
        let text = String::from_utf8_lossy(json);
        let value: Value = serde_json::from_str(&text).map_err(RecordError::Json)?;
        let Value::Object(fields) = value else { return Err(RecordError::NotAnObject) };
        let mut reader = Reader { fields, problems: Vec::new() };
        if matches!(text, std::borrow::Cow::Owned(_)) {
            reader.problems.push(RecordProblem::BadText);
        }
        let new = NewRun {
            id: None,
            description: reader.text(&["description"]).unwrap_or_default(),
            workload_file: reader.text(&["workload-file", "workload_file"]),
            error: reader.text(&["error"]),
            start: reader.text(&["start"]),
            end: reader.text(&["end"]),
            parameters: reader.map(&["parameters", "parameter"]),
            metrics: reader.map(&["summary", "metrics", "metric"]),
            labels: reader.map(&["labels", "label"]),
            inputs: reader.list(&["input", "inputs"]),
            outputs: reader.list(&["output", "outputs"]),
        };
        let mut record = Self::check(new);
        record.problems.splice(..0, reader.problems);
        Ok(record)
    }

    /// Applies the rules for paths, names and text to a run that came in another way; its id is the caller's concern.
    pub fn check(new: NewRun) -> Self {
        let mut problems = Vec::new();
        let (inputs, references) = inputs(new.inputs, &mut problems);
        let mut record = Self {
            description: clean(new.description, &mut problems),
            workload_file: paths(new.workload_file, &mut problems).pop(),
            error: new.error.map(|text| clean(text, &mut problems)),
            start: new.start.map(|text| clean(text, &mut problems)),
            end: new.end.map(|text| clean(text, &mut problems)),
            parameters: names(new.parameters, &mut problems),
            metrics: names(new.metrics, &mut problems),
            labels: names(new.labels, &mut problems),
            inputs,
            references,
            outputs: paths(new.outputs, &mut problems),
            problems: Vec::new(),
        };
        problems.dedup();
        record.problems = problems;
        record
    }
}

/// The one way to write a path in a workspace: relative, `/` once, no `.`; or what is wrong with it.
pub fn relative_path(path: &str) -> Result<String, &'static str> {
    if path.contains('\0') {
        return Err("it contains NUL");
    }
    if path.starts_with('/') {
        return Err("it is absolute: give a path in the workspace");
    }
    if path.len() > MAX_PATH_BYTES {
        return Err("it is longer than 4,096 bytes");
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("it leads out of the workspace, or may: it contains `..`");
    }
    if parts.is_empty() {
        return Err("it names no file");
    }
    Ok(parts.join("/"))
}

struct Reader {
    fields: Map<String, Value>,
    problems: Vec<RecordProblem>,
}

impl Reader {
    /// All values under any of the names, `null` aside.
    fn take(&mut self, names: &[&'static str]) -> Vec<(&'static str, Value)> {
        names
            .iter()
            .filter_map(|name| Some((*name, self.fields.remove(*name)?)))
            .filter(|(_, value)| !value.is_null())
            .collect()
    }

    fn text(&mut self, names: &[&'static str]) -> Option<String> {
        self.take(names).into_iter().next().map(|(_, value)| plain(value))
    }

    fn map(&mut self, names: &[&'static str]) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        for (name, value) in self.take(names) {
            match value {
                Value::Object(fields) => {
                    map.extend(
                        fields
                            .into_iter()
                            .filter(|(_, value)| !value.is_null())
                            .map(|(name, value)| (name, plain(value))),
                    );
                }
                _ => self.problems.push(RecordProblem::BadField(name)),
            }
        }
        map
    }

    fn list(&mut self, names: &[&'static str]) -> Vec<String> {
        let mut list = Vec::new();
        for (name, value) in self.take(names) {
            match value {
                Value::String(text) => list.push(text),
                Value::Array(values) if values.iter().all(Value::is_string) => {
                    list.extend(values.into_iter().map(plain));
                }
                _ => self.problems.push(RecordProblem::BadField(name)),
            }
        }
        list
    }
}

/// A string as it is, anything else as compact JSON.
fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// `PostgreSQL` keeps no NUL in text.
fn clean(text: String, problems: &mut Vec<RecordProblem>) -> String {
    if !text.contains('\0') {
        return text;
    }
    problems.push(RecordProblem::BadText);
    text.replace('\0', "\u{fffd}")
}

fn names(map: BTreeMap<String, String>, problems: &mut Vec<RecordProblem>) -> BTreeMap<String, String> {
    map.into_iter()
        .map(|(name, value)| {
            let mut name = clean(name, problems);
            if name.len() > MAX_NAME_BYTES {
                name.truncate(name.floor_char_boundary(MAX_NAME_BYTES));
                problems.push(RecordProblem::LongName { name: name.clone(), limit: MAX_NAME_BYTES });
            }
            (name, clean(value, problems))
        })
        .collect()
}

/// What is read in the own workspace, and in those of other projects.
fn inputs(list: Vec<String>, problems: &mut Vec<RecordProblem>) -> (Vec<String>, Vec<FileReference>) {
    let list = first(list, problems);
    let (elsewhere, own): (Vec<_>, Vec<_>) =
        list.into_iter().partition(|path| FileReference::is_meant_by(path));
    (distinct(own, relative_path, problems), distinct(elsewhere, FileReference::parse, problems))
}

/// What is written, all of it in the own workspace.
fn paths(list: impl IntoIterator<Item = String>, problems: &mut Vec<RecordProblem>) -> Vec<String> {
    let own = |path: &str| {
        if FileReference::is_meant_by(path) {
            return Err("it is another project's: a run writes in its own project's workspace alone");
        }
        relative_path(path)
    };
    distinct(first(list, problems), own, problems)
}

/// As many as a record may declare.
fn first(list: impl IntoIterator<Item = String>, problems: &mut Vec<RecordProblem>) -> Vec<String> {
    let mut list = list.into_iter();
    let kept = list.by_ref().take(MAX_PATHS).collect();
    let left_out = list.count();
    if left_out > 0 {
        problems.push(RecordProblem::TooManyPaths { left_out, limit: MAX_PATHS });
    }
    kept
}

/// What `read` makes of them, once each.
fn distinct<T: Clone + Eq + Hash>(
    list: Vec<String>,
    read: impl Fn(&str) -> Result<T, &'static str>,
    problems: &mut Vec<RecordProblem>,
) -> Vec<T> {
    let mut kept = Vec::new();
    let mut seen = HashSet::new();
    for path in list {
        match read(&path) {
            Ok(read) if seen.insert(read.clone()) => kept.push(read),
            Ok(_) => {}
            Err(why) => problems.push(RecordProblem::BadPath { path, why }),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_original_client_writes() {
        let record = RunRecord::parse(
            br#"{
                "description": "first", "end": "20260102T030405.000006", "input": ["data/a.csv"],
                "labels": {"artefact:m": "{\"files\":{\"model\":\"m.pkl\"}}"}, "output": ["m.pkl"],
                "parameters": {"c": "0.1"}, "start": "20260102T030400.000006", "summary": {"accuracy": "0.97"},
                "version": "1", "workload-file": "train.py"
            }"#,
        )
        .unwrap();
        assert_eq!(record.description, "first");
        assert_eq!(record.workload_file.as_deref(), Some("train.py"));
        assert_eq!(record.metrics["accuracy"], "0.97");
        assert_eq!(record.parameters["c"], "0.1");
        assert!(record.labels.contains_key("artefact:m"));
        assert_eq!(
            (record.inputs, record.outputs),
            (vec!["data/a.csv".to_owned()], vec!["m.pkl".to_owned()])
        );
        assert_eq!(record.problems, []);
    }

    #[test]
    fn other_spellings_and_types_are_read() {
        let record = RunRecord::parse(
            br#"{"label": {"a": true}, "metric": {"b": 0.5, "c": null}, "summary": {"d": "1"}}"#,
        )
        .unwrap();
        assert_eq!(record.labels["a"], "true");
        assert_eq!(record.metrics, BTreeMap::from([("b".into(), "0.5".into()), ("d".into(), "1".into())]));
    }

    #[test]
    fn a_bad_path_is_named_and_the_rest_kept() {
        let record =
            RunRecord::parse(br#"{"input": ["../secret", "/etc/passwd", "./a//b", "a/b"], "output": 3}"#)
                .unwrap();
        assert_eq!(record.inputs, ["a/b"]);
        let told: Vec<String> = record.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3);
        assert!(told[0].contains("\"output\""), "{told:?}");
        assert!(told[1].contains("../secret") && told[2].contains("/etc/passwd"), "{told:?}");
    }

    #[test]
    fn files_of_other_projects_are_read_and_never_written() {
        let record = RunRecord::parse(
            br#"{"input": ["a", "ds:/prices/x.csv", "ds://prices/x.csv", "ds://prices/../y"], "output": ["ds://prices/z"]}"#,
        )
        .unwrap();
        assert_eq!(record.inputs, ["a"]);
        assert_eq!(record.references, [FileReference::parse("ds://prices/x.csv").unwrap()]);
        let told: Vec<String> = record.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("prices/../y") && told[1].contains("its own project"), "{told:?}");
    }

    #[test]
    fn a_record_nested_ten_thousand_levels_deep_is_refused() {
        let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        for json in
            [format!(r#"{{"labels": {{"a": {open}{close}}}}}"#), format!("{open}{close}"), objects, open]
        {
            assert!(matches!(RunRecord::parse(json.as_bytes()), Err(RecordError::Json(_))));
        }
    }

    #[test]
    fn of_too_many_paths_the_first_are_kept() {
        let inputs = (0..MAX_PATHS + 3).map(|n| n.to_string()).collect();
        let record = RunRecord::check(NewRun { inputs, ..NewRun::default() });
        assert_eq!(record.inputs.len(), MAX_PATHS);
        assert!(record.problems[0].to_string().contains("3 were left out"), "{:?}", record.problems);
    }

    #[test]
    fn text_that_no_database_keeps_is_replaced() {
        let record = RunRecord::parse(b"{\"labels\": {\"a\\u0000\": \"\xff\"}}").unwrap();
        assert_eq!(record.labels["a\u{fffd}"], "\u{fffd}");
        assert!(record.problems.contains(&RecordProblem::BadText));
        let record =
            RunRecord::parse(format!("{{\"labels\": {{\"{}\": \"\"}}}}", "ä".repeat(400)).as_bytes())
                .unwrap();
        assert_eq!(record.labels.keys().next().unwrap().len(), MAX_NAME_BYTES);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        assert!(matches!(RunRecord::parse(b"{\"a\": "), Err(RecordError::Json(_))));
        assert!(matches!(RunRecord::parse(b"[]"), Err(RecordError::NotAnObject)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = RunRecord::parse(&bytes);
        }

        #[test]
        fn a_path_that_is_accepted_stays_in_the_workspace(path in "[a./]{0,12}") {
            if let Ok(clean) = relative_path(&path) {
                prop_assert!(!clean.starts_with('/') && clean.split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert_eq!(relative_path(&clean), Ok(clean.clone()));
            }
        }
    }
}
