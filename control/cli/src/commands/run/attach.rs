//! A task that a person waits for: its log to stdout, what happens to it to stderr, Ctrl-C to its end.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context as _, Result};
use ds_domain::{
    TaskId,
    api::Task,
    task::{Phase, State},
};
use indicatif::ProgressBar;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    context::Context,
    log_stream::{LogStream, Patience},
    output::{self, StdoutClosed, text},
    progress,
};

/// The exit code after a cancel, as a shell has it after Ctrl-C.
pub(super) const CANCELLED: u8 = 130;

/// How often the state is looked at. The log does not wait for it.
const LOOK: Duration = Duration::from_millis(500);

/// Follows the task to its end. `None` if the person left before that.
pub(super) async fn attach(
    context: &Context,
    id: TaskId,
    verbose: bool,
    interrupts: &mut Interrupts,
) -> Result<Option<Task>> {
    let log = LogStream::new(context, id);
    let mut sink = if context.out.json { output::raw_stderr()? } else { output::raw_stdout()? };
    let ended = log.copy_to(&mut sink);
    let mut watch = Watch { context, id, verbose, said: String::new(), spinner: None };
    tokio::select! {
        task = ended => match task {
            Ok(task) => Ok(Some(task)),
            Err(error) => {
                if error.is::<StdoutClosed>() {
                    context.out.note(format_args!("stdout is closed; the task goes on: `ds task show {}`", text::short(id)));
                }
                Err(error)
            }
        },
        never = watch.run() => match never {},
        () = cancel_or_leave(context, id, interrupts) => {
            context.out.note(format_args!("left; see how it ends with `ds task show {}`", text::short(id)));
            Ok(None)
        }
    }
}

/// On the first interrupt asks the hub to end the task; returns on the second.
async fn cancel_or_leave(context: &Context, id: TaskId, interrupts: &mut Interrupts) {
    interrupts.next().await;
    context
        .out
        .note(format_args!("cancelling task {} and waiting for its end; again to leave", text::short(id)));
    let cancel = async {
        let mut patience = Patience::new(&context.out);
        while let Err(error) = context.client.post(&["tasks", &id.to_string(), "cancel"]).done().await {
            if let Err(error) = patience.outlast(error).await {
                context.out.warn(format_args!("the task could not be cancelled: {error:#}"));
                break;
            }
        }
    };
    tokio::join!(cancel, interrupts.next());
}

/// Ctrl-C, and what ends a CI job.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals do not end the process by themselves.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Says on stderr what happens to the task until its command runs, and what happens after.
struct Watch<'a> {
    context: &'a Context,
    id: TaskId,
    verbose: bool,
    said: String,
    spinner: Option<ProgressBar>,
}

impl Watch<'_> {
    async fn run(&mut self) -> Infallible {
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
            return self.stop_spinner();
        }
        let line = describe(task, self.verbose);
        if line != self.said {
            self.stop_spinner();
            self.context.out.note(format_args!("task {} {}", text::short(self.id), text::plain(&line)));
            self.said = line;
        }
        // While the command writes, the line is its own.
        if task.phase == Some(Phase::Running) {
            return self.stop_spinner();
        }
        let detail = if task.detail.is_empty() { "waiting".to_owned() } else { text::plain(&task.detail) };
        let spinner = self.spinner.get_or_insert_with(|| progress::waiting(String::new()));
        spinner.set_message(detail);
    }

    fn stop_spinner(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.stop_spinner();
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
