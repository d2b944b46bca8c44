//! What a runner counts, for Prometheus.

use ds_proto::v1::Outcome;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// 1 while there is a session with the hub, else 0.
const CONNECTED: &str = "ds_runner_hub_connected";
/// Tasks that are here, whatever their stage.
const TASKS: &str = "ds_runner_tasks";
/// Tasks whose command is over or could not run; label `outcome`.
const TASKS_ENDED: &str = "ds_runner_tasks_ended_total";
/// Times that a stage failed in a way that may pass, and was tried again.
const RETRIES: &str = "ds_runner_task_retries_total";

/// Says what each of them is.
pub(crate) fn describe() {
    describe_gauge!(CONNECTED, "Whether there is a session with the hub");
    describe_gauge!(TASKS, Unit::Count, "Tasks that are on this runner");
    describe_counter!(TASKS_ENDED, "Tasks whose command is over or could not run");
    describe_counter!(RETRIES, "Failures that may pass and were followed by another try");
    gauge!(CONNECTED).set(0.0);
    gauge!(TASKS).set(0.0);
}

pub(crate) fn connected(yes: bool) {
    gauge!(CONNECTED).set(if yes { 1.0 } else { 0.0 });
}

pub(crate) fn tasks(count: usize) {
    gauge!(TASKS).set(count as f64);
}

pub(crate) fn ended(outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::TimedOut => "timed_out",
        Outcome::Error | Outcome::Unspecified => "error",
    };
    counter!(TASKS_ENDED, "outcome" => outcome).increment(1);
}

pub(crate) fn retried() {
    counter!(RETRIES).increment(1);
}
