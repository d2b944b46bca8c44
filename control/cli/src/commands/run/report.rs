//! What a person is told when the task has ended, and the exit code.

use anyhow::Result;
use ds_domain::{
    api::{Run, Task},
    task::Outcome,
};
use serde::Serialize;

use super::attach::CANCELLED;
use crate::{commands::runs, context::Context, output::text};

/// Runs that are shown; the others are counted.
const SHOWN_RUNS: usize = 50;
/// The exit code when the time was over, as of `timeout`.
const TIMED_OUT: u8 = 124;

#[derive(Serialize)]
struct Ended<'a> {
    task: &'a Task,
    runs: &'a [Run],
}

/// Reports the end on stderr (with `--json` on stdout). Returns the exit code.
pub(super) async fn report(context: &Context, task: &Task) -> Result<u8> {
    context.out.note(format_args!("task {} {}", text::short(task.id), text::plain(&headline(task))));
    if !task.error.is_empty() {
        context.out.note(text::plain_lines(&task.error));
    }
    for warning in &task.warnings {
        context.out.warn(text::plain(warning));
    }
    if let Some(branch) = &task.branch {
        context.out.note(format_args!(
            "the workspace's head had moved meanwhile: the result is on the branch {}, nothing was overwritten",
            text::plain(branch)
        ));
    }
    let shown = if context.out.json { usize::MAX } else { SHOWN_RUNS };
    let mut runs: Vec<Run> = Vec::new();
    for id in task.runs.iter().take(shown) {
        runs.push(context.client.get(&["runs", &id.to_string()]).json().await?);
    }
    if context.out.json {
        context.out.print_json(&Ended { task, runs: &runs })?;
    } else if !runs.is_empty() {
        context.out.note_table(&runs::table(&runs));
        if task.runs.len() > runs.len() {
            context.out.note(format_args!("and {} more: `ds runs ls`", task.runs.len() - runs.len()));
        }
    }
    Ok(exit_code(task))
}

fn headline(task: &Task) -> String {
    let how = match (task.outcome, task.exit_code) {
        (Some(Outcome::Failed), Some(code)) => format!("failed with exit code {code}"),
        (Some(Outcome::TimedOut), _) => "was ended: its time was over".into(),
        (Some(Outcome::Cancelled), _) => "was cancelled".into(),
        (Some(Outcome::Error), _) => "could not be completed".into(),
        (Some(outcome), _) => outcome.as_str().to_owned(),
        (None, _) => "ended".into(),
    };
    let took = match (task.started_ms, task.ended_ms) {
        (Some(started), Some(ended)) => format!(" after {}", text::span(ended - started)),
        _ => String::new(),
    };
    let commit = task.commit.map(|id| format!(", commit {}", text::short(id))).unwrap_or_default();
    format!("{how}{took}{commit}")
}

fn exit_code(task: &Task) -> u8 {
    let code = task.exit_code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    match task.outcome {
        Some(Outcome::Succeeded) => 0,
        Some(Outcome::Cancelled) => CANCELLED,
        Some(Outcome::TimedOut) => TIMED_OUT,
        Some(Outcome::Failed | Outcome::Error) | None => code.unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: &str, exit_code: Option<i32>) -> Task {
        serde_json::from_value(serde_json::json!({
            "id": "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11", "project": "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11",
            "project_name": "digits", "author": "ann", "spec": {"command": ["true"]}, "state": "ended",
            "outcome": outcome, "exit_code": exit_code, "log_bytes": 0, "created_ms": 0, "started_ms": 1000, "ended_ms": 13_000
        }))
        .unwrap()
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        for (outcome, code, expected) in [
            ("succeeded", Some(0), 0),
            ("failed", Some(3), 3),
            ("failed", Some(255), 255),
            ("failed", Some(-1), 1),
            ("error", None, 1),
            // The command went well, its result could not be kept.
            ("error", Some(0), 1),
            ("cancelled", Some(137), 130),
            ("timed_out", Some(137), 124),
        ] {
            assert_eq!(exit_code(&ended(outcome, code)), expected, "{outcome} {code:?}");
        }
    }

    #[test]
    fn a_headline_says_how_it_ended() {
        assert_eq!(headline(&ended("succeeded", Some(0))), "succeeded after 12 s");
        assert_eq!(headline(&ended("failed", Some(3))), "failed with exit code 3 after 12 s");
    }
}
