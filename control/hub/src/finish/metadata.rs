//! A commit's metadata in the format `dotscience.run.v1`: string to string, so that programs made for the
//! original read it.

use std::collections::BTreeMap;

use ds_domain::api::{Run, RunFile, Runner, Task};
use ds_proto::v1::TaskFinished;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// `%Y%m%dT%H%M%S.%f` of the original client.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:6]");

/// What a task's commit says beside its runs.
pub(super) struct Execution<'a> {
    pub(super) task: &'a Task,
    pub(super) message: &'a str,
    pub(super) success: bool,
    /// What its runner said of its end.
    pub(super) finished: &'a TaskFinished,
    pub(super) runner: &'a Runner,
}

/// The metadata of a task's commit.
pub(super) fn metadata(execution: &Execution<'_>, runs: &[Run]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    describe_execution(&mut map, execution, runs);
    describe_runner(&mut map, execution);
    for run in runs {
        describe_run(&mut map, run);
    }
    map.retain(|_, value| !value.is_empty());
    map
}

fn describe_execution(map: &mut BTreeMap<String, String>, execution: &Execution<'_>, runs: &[Run]) {
    let (task, finished) = (execution.task, execution.finished);
    let mut spec = task.spec.clone();
    spec.hide_environment();
    let ids: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
    let mut put = |key: &str, value: String| map.insert(key.to_owned(), value);
    put("type", "dotscience.run.v1".into());
    put("author", task.author.clone());
    put("success", execution.success.to_string());
    put("message", execution.message.to_owned());
    put("runs", json(&ids));
    put("workload.type", "command".into());
    put("workload.image", finished.image.clone());
    put("workload.image.hash", finished.image_digest.clone());
    put("workload.command", json(&spec.command));
    put("workload.environment", json(&spec.environment));
    put("exec.logs", json(&[format!("/api/v1/tasks/{}/log", task.id)]));
    if finished.started_ms > 0 {
        put("exec.start", time_text(finished.started_ms));
        put("exec.end", time_text(finished.ended_ms));
        // What was not measured is not said.
        put("exec.cpu-seconds", finished.cpu_seconds.map(|s| format!("{s:.3}")).unwrap_or_default());
        put("exec.ram", finished.peak_memory_bytes.map(|bytes| bytes.to_string()).unwrap_or_default());
    }
}

fn describe_runner(map: &mut BTreeMap<String, String>, execution: &Execution<'_>) {
    let mut put = |key: &str, value: String| map.insert(format!("runner.{key}"), value);
    put("name", execution.runner.name.clone());
    put("version", execution.runner.version.clone());
    if let Some(machine) = &execution.runner.machine {
        put("platform", machine.platform.clone());
        put("platform_version", machine.os_version.clone());
        put("cpu", machine.cpus.to_string());
        put("gpu", json(&machine.gpus));
        put("ram", machine.memory_bytes.to_string());
    }
}

fn describe_run(map: &mut BTreeMap<String, String>, run: &Run) {
    let mut put = |key: &str, value: String| map.insert(format!("run.{}.{key}", run.id), value);
    put("authority", run.authority.clone());
    put("description", run.description.clone());
    put("workload-file", run.workload_file.clone().unwrap_or_default());
    put("error", run.error.clone().unwrap_or_default());
    put("start", run.start.clone().unwrap_or_default());
    put("end", run.end.clone().unwrap_or_default());
    put("input-files", json(&versions(&run.inputs)));
    put("output-files", json(&versions(&run.outputs)));
    for (kind, values) in [("label", &run.labels), ("summary", &run.metrics), ("parameters", &run.parameters)]
    {
        for (name, value) in values {
            put(&format!("{kind}.{name}"), value.clone());
        }
    }
}

/// `FILE@VERSION`, or `FILE` where no commit has it.
fn versions(files: &[RunFile]) -> Vec<String> {
    let version = |file: &RunFile| match file.commit {
        Some(commit) => format!("{}@{commit}", file.path),
        None => file.path.clone(),
    };
    files.iter().map(version).collect()
}

/// The format's time of day for Unix milliseconds.
pub(super) fn time_text(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(TIME).ok())
        .unwrap_or_default()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("lists and maps of strings serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_original_form() {
        assert_eq!(time_text(1_700_000_000_123), "20231114T221320.123000");
    }
}
