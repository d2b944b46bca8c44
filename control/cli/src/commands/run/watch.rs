//! What happens to a task beside its log, for a person who waits: lines on stderr, and a bar while bytes move for it.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use ds_domain::{
    TaskId,
    api::{Progress, Task},
    task::{Phase, State},
};
use indicatif::ProgressBar;

use crate::{context::Context, output::text, progress};

/// How often the state is looked at. The log does not wait for it.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines about one transfer, where there is no terminal for a bar.
const LINES: Duration = Duration::from_secs(5);

/// Says on stderr what happens to the task until its command runs, and what happens after.
pub(super) struct Watch<'a> {
    context: &'a Context,
    id: TaskId,
    verbose: bool,
    said: String,
    shown: Shown,
    /// When there was last a line about bytes that move.
    counted: Option<Instant>,
}

/// What moves on the terminal.
enum Shown {
    Nothing,
    Waiting(ProgressBar),
    /// The bar of what this text says.
    Transfer(String, ProgressBar),
}

impl<'a> Watch<'a> {
    pub(super) fn new(context: &'a Context, id: TaskId, verbose: bool) -> Self {
        Self { context, id, verbose, said: String::new(), shown: Shown::Nothing, counted: None }
    }

    /// Looks at the task again and again.
    pub(super) async fn run(&mut self) -> Infallible {
        let id = self.id.to_string();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // The copy of the log reports a hub that does not answer.
            if let Ok(task) = self.context.client.get(&["tasks", &id]).json::<Task>().await {
                self.look(&task);
            }
        }
    }

    fn look(&mut self, task: &Task) {
        // The report says how it ended, once the log is complete.
        if task.state == State::Ended {
            return self.clear();
        }
        let line = describe(task, self.verbose);
        if line != self.said {
            self.clear();
            self.note(&line);
            self.said = line;
        }
        // While the command writes, the line is its own.
        if task.phase == Some(Phase::Running) {
            return self.clear();
        }
        let detail = if task.detail.is_empty() { "waiting".to_owned() } else { text::plain(&task.detail) };
        match task.progress {
            Some(progress) => self.transfer(detail, progress),
            None => self.wait(detail),
        }
    }

    fn wait(&mut self, detail: String) {
        if !matches!(self.shown, Shown::Waiting(_)) {
            self.clear();
            self.shown = Shown::Waiting(progress::waiting(String::new()));
        }
        if let Shown::Waiting(spinner) = &self.shown {
            spinner.set_message(detail);
        }
    }

    fn transfer(&mut self, detail: String, now: Progress) {
        if !progress::is_seen() {
            return self.count(&detail, now);
        }
        if !matches!(&self.shown, Shown::Transfer(of, _) if *of == detail) {
            self.clear();
            self.shown = Shown::Transfer(detail.clone(), progress::transfer(detail, now));
        }
        if let Shown::Transfer(_, bar) = &self.shown {
            progress::advance(bar, now);
        }
    }

    /// What a bar would show, in lines.
    fn count(&mut self, detail: &str, now: Progress) {
        if self.counted.is_none_or(|last| last.elapsed() >= LINES) {
            self.counted = Some(Instant::now());
            self.note(&format!("{detail}: {}", text::progress(now)));
        }
    }

    fn note(&self, line: &str) {
        self.context.out.note(format_args!("task {} {}", text::short(self.id), text::plain(line)));
    }

    fn clear(&mut self) {
        match std::mem::replace(&mut self.shown, Shown::Nothing) {
            Shown::Nothing => {}
            Shown::Waiting(bar) | Shown::Transfer(_, bar) => bar.finish_and_clear(),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One line that changes when the task gets on; with every step of a phase if `verbose`.
fn describe(task: &Task, verbose: bool) -> String {
    let runner = task.runner.as_deref().unwrap_or("a runner");
    let queued = task.state == State::Queued;
    let mut line = match (task.state, task.phase) {
        (State::Queued, _) => "queued".to_owned(),
        (State::Scheduled, _) => format!("scheduled on {runner}"),
        (State::Running, None) => format!("taken by {runner}"),
        (State::Running, Some(Phase::Syncing)) => format!("receiving the workspace on {runner}"),
        (State::Running, Some(Phase::Pulling)) => format!("pulling the image on {runner}"),
        (State::Running, Some(Phase::Running)) => format!("running on {runner}"),
        (State::Running, Some(Phase::Committing)) => "committing the workspace".to_owned(),
        (State::Ended, _) => "ended".to_owned(),
    };
    if task.cancelling && task.state != State::Ended {
        line.push_str(", cancelling");
    }
    if task.runner_online == Some(false) && task.state != State::Ended {
        line.push_str(", but the runner is not connected: waiting for it");
    }
    if (queued || verbose) && !task.detail.is_empty() {
        line = format!("{line}: {}", task.detail);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(change: &serde_json::Value) -> Task {
        let mut task = serde_json::json!({
            "id": "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11", "project": "3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11",
            "project_name": "digits", "author": "ann", "spec": {"command": ["true"]}, "state": "queued",
            "log_bytes": 0, "created_ms": 0
        });
        task.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(task).unwrap()
    }

    #[test]
    fn a_line_says_why_a_task_waits() {
        let queued = task(&serde_json::json!({"detail": "no runner is online"}));
        assert_eq!(describe(&queued, false), "queued: no runner is online");
        let pulling = task(
            &serde_json::json!({"state": "running", "phase": "pulling", "runner": "dgx", "detail": "40 of 120 MB"}),
        );
        assert_eq!(describe(&pulling, false), "pulling the image on dgx");
        assert_eq!(describe(&pulling, true), "pulling the image on dgx: 40 of 120 MB");
        let lost = task(
            &serde_json::json!({"state": "running", "phase": "running", "runner": "dgx", "runner_online": false}),
        );
        assert!(describe(&lost, false).ends_with("the runner is not connected: waiting for it"));
    }
}
