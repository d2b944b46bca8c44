//! How a command ended, told for people. Pure.

use ds_domain::task::MAX_TASK_LOG;
use ds_proto::v1::Outcome;

use crate::{
    docker::{ContainerState, ContainerStatus},
    journal::Stop,
    spec::Spec,
};

/// A shell's and the init process's codes (POSIX 2.8.2): found but not executable, and not found.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
/// 128 + SIGKILL and 128 + SIGTERM.
const KILLED: i32 = 137;
const TERMINATED: i32 = 143;
/// What Docker says of a container whose end it did not see.
const UNKNOWN: i32 = 255;

/// An outcome with what a person should know about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) exit_code: Option<i32>,
    pub(super) error: String,
}

impl Ending {
    /// The command did not run, or nobody knows how it ended.
    pub(super) fn not_run(error: &str) -> Self {
        Self { outcome: Outcome::Error, exit_code: None, error: error.to_owned() }
    }

    /// What a container that has ended says.
    pub(super) fn of(state: &ContainerState, stop: Option<Stop>, spec: &Spec, daemon_was_away: bool) -> Self {
        let ContainerStatus::Ended(exit) = &state.status else {
            return Self::not_run("the container has not ended; this is a mistake in the runner");
        };
        if state.started_ms == 0 {
            return Self::not_run(&format!("the container could not be started: {}", exit.error));
        }
        let command = spec.command.first().map_or("", String::as_str);
        let image = &spec.image;
        let (outcome, error) = match (stop, exit.code) {
            (None, 0) if !exit.out_of_memory => (Outcome::Succeeded, String::new()),
            // A command that was told to end may still do its last work and say so with 0.
            (Some(Stop::Cancelled), _) => (Outcome::Cancelled, String::new()),
            (Some(Stop::TimedOut), _) => (
                Outcome::TimedOut,
                format!(
                    "the command was ended after its time limit of {} s: give it more with a larger timeout",
                    spec.timeout_seconds.unwrap_or_default()
                ),
            ),
            (Some(Stop::LogTooLong), _) => (Outcome::Failed, log_too_long()),
            (None, _) if exit.out_of_memory => (Outcome::Failed, out_of_memory(spec)),
            (None, NOT_FOUND) => (
                Outcome::Failed,
                format!(
                    "exit code 127: `{command}`, or a command that it called, was not found in image {image}. Check its name, or use an image that has it"
                ),
            ),
            (None, NOT_EXECUTABLE) => (
                Outcome::Failed,
                format!(
                    "exit code 126: `{command}`, or a command that it called, is there but cannot be executed in image {image}. Is it executable (`chmod +x`), and does its interpreter exist there?"
                ),
            ),
            (None, KILLED | TERMINATED | UNKNOWN) if daemon_was_away => (
                Outcome::Error,
                format!(
                    "the Docker daemon was restarted while the task ran, which ended its command (exit code {}): start the task again",
                    exit.code
                ),
            ),
            (None, _) if daemon_was_away => (
                Outcome::Failed,
                format!(
                    "exit code {}; the Docker daemon was restarted while the task ran, which may be why",
                    exit.code
                ),
            ),
            (None, KILLED | TERMINATED) => (
                Outcome::Failed,
                format!(
                    "exit code {}: the command was ended by a signal that did not come from Dotstream. Did somebody stop the container or the Docker daemon, or did the machine run out of memory?",
                    exit.code
                ),
            ),
            (None, _) => (Outcome::Failed, String::new()),
        };
        Self { outcome, exit_code: Some(exit.code), error }
    }

    /// Whether something other than a person's wish ended it badly.
    pub(super) fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed | Outcome::Error)
    }

    /// Adds a sentence to the error.
    pub(super) fn add(&mut self, sentence: &str) {
        if !self.error.is_empty() {
            self.error.push_str("; ");
        }
        self.error.push_str(sentence);
    }
}

fn log_too_long() -> String {
    format!(
        "the command was ended because its log passed {} MiB, or has so many short lines that keeping them takes several times that: print less, or write it to a file in the workspace",
        MAX_TASK_LOG >> 20
    )
}

fn out_of_memory(spec: &Spec) -> String {
    match spec.memory_bytes {
        Some(limit) => format!(
            "the command needed more than its {} MiB of memory and was ended: give it more with --memory",
            limit >> 20
        ),
        None => {
            "the machine ran out of memory and the command was ended: use a larger machine, or less at once"
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{docker::Exit, spec::tests::start};

    fn ending(
        code: i32,
        stop: Option<Stop>,
        change: impl FnOnce(&mut ContainerState, &mut Spec) -> bool,
    ) -> Ending {
        let mut spec = Spec::from_start(start("python:3.11", &["train"])).unwrap();
        let exit = Exit { code, out_of_memory: false, error: String::new() };
        let mut state = ContainerState { status: ContainerStatus::Ended(exit), started_ms: 1, ended_ms: 2 };
        let away = change(&mut state, &mut spec);
        Ending::of(&state, stop, &spec, away)
    }

    #[test]
    fn the_exit_code_decides_unless_we_ended_it() {
        let plain = |_: &mut ContainerState, _: &mut Spec| false;
        assert_eq!(ending(0, None, plain).outcome, Outcome::Succeeded);
        let failed = ending(3, None, plain);
        assert_eq!((failed.outcome, failed.exit_code, failed.error.as_str()), (Outcome::Failed, Some(3), ""));
        assert_eq!(ending(143, Some(Stop::Cancelled), plain).outcome, Outcome::Cancelled);
        assert_eq!(ending(0, Some(Stop::Cancelled), plain).outcome, Outcome::Cancelled);
        let late = ending(137, Some(Stop::TimedOut), |_, spec| {
            spec.timeout_seconds = Some(60);
            false
        });
        assert!(late.outcome == Outcome::TimedOut && late.error.contains("60 s"), "{late:?}");
        let chatty = ending(0, Some(Stop::LogTooLong), plain);
        assert!(chatty.outcome == Outcome::Failed && chatty.error.contains("1024 MiB"), "{chatty:?}");
    }

    #[test]
    fn what_a_code_means_is_said() {
        let plain = |_: &mut ContainerState, _: &mut Spec| false;
        assert!(
            ending(127, None, plain).error.contains("`train`, or a command that it called, was not found")
        );
        assert!(ending(126, None, plain).error.contains("cannot be executed"));
        assert!(ending(143, None, plain).error.contains("signal"));
    }

    #[test]
    fn the_machines_fault_is_told_from_the_commands() {
        let away = ending(137, None, |_, _| true);
        assert!(
            away.outcome == Outcome::Error && away.error.contains("Docker daemon was restarted"),
            "{away:?}"
        );
        assert_eq!(ending(1, None, |_, _| true).outcome, Outcome::Failed);
        let memory = ending(137, None, |state, spec| {
            let exit = Exit { code: 137, out_of_memory: true, error: String::new() };
            state.status = ContainerStatus::Ended(exit);
            spec.memory_bytes = Some(64 << 20);
            false
        });
        assert!(memory.outcome == Outcome::Failed && memory.error.contains("64 MiB"), "{memory:?}");
        let never = ending(128, None, |state, _| {
            state.started_ms = 0;
            false
        });
        assert_eq!((never.outcome, never.exit_code), (Outcome::Error, None));
    }
}
