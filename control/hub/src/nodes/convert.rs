//! Between the wire's words and the domain's.

use ds_domain::{
    SnapshotId, TaskId, VolumeId,
    api::{ChangeKind, FileChange, Machine, Progress},
    task::{Gpus, Outcome, Phase, TaskSpec},
};
use ds_proto::v1;

/// [`v1::StartTask::gpus`] for all of a machine's GPUs.
const ALL_GPUS: u32 = u32::MAX;

pub(crate) fn machine(machine: v1::Machine) -> Machine {
    Machine {
        platform: machine.platform,
        os_version: machine.os_version,
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        gpus: machine.gpus,
        zfs: machine.zfs,
        docker: machine.docker,
    }
}

/// The domain's phase. [`v1::TaskPhase::Finished`] is still committing as people see it; unknown ones are none.
pub(crate) fn phase(phase: i32) -> Option<Phase> {
    match v1::TaskPhase::try_from(phase).ok()? {
        v1::TaskPhase::Unspecified => None,
        v1::TaskPhase::Syncing => Some(Phase::Syncing),
        v1::TaskPhase::Pulling => Some(Phase::Pulling),
        v1::TaskPhase::Running => Some(Phase::Running),
        v1::TaskPhase::Committing | v1::TaskPhase::Finished => Some(Phase::Committing),
    }
}

/// How far a task is.
pub(crate) fn amount(amount: v1::TransferAmount) -> Progress {
    Progress { done_bytes: amount.done_bytes, total_bytes: amount.total_bytes }
}

/// The domain's outcome; one that this hub does not know is an error.
pub(crate) fn outcome(outcome: i32) -> Outcome {
    match v1::Outcome::try_from(outcome) {
        Ok(v1::Outcome::Succeeded) => Outcome::Succeeded,
        Ok(v1::Outcome::Failed) => Outcome::Failed,
        Ok(v1::Outcome::Cancelled) => Outcome::Cancelled,
        Ok(v1::Outcome::TimedOut) => Outcome::TimedOut,
        Ok(v1::Outcome::Error | v1::Outcome::Unspecified) | Err(_) => Outcome::Error,
    }
}

/// The changes that name a kind which this hub knows.
pub(crate) fn changes(changes: Vec<v1::FileChange>) -> Vec<FileChange> {
    let kind = |change: i32| match v1::Change::try_from(change).ok()? {
        v1::Change::Unspecified => None,
        v1::Change::Added => Some(ChangeKind::Added),
        v1::Change::Modified => Some(ChangeKind::Modified),
        v1::Change::Removed => Some(ChangeKind::Removed),
    };
    let convert = |change: v1::FileChange| {
        Some(FileChange { change: kind(change.change)?, path: change.path, size_bytes: change.size_bytes })
    };
    changes.into_iter().filter_map(convert).collect()
}

/// Where a task works and what it leaves behind.
pub(crate) struct Place {
    pub(crate) task: TaskId,
    pub(crate) volume: VolumeId,
    pub(crate) base: SnapshotId,
    pub(crate) result: SnapshotId,
    pub(crate) project_name: String,
}

/// The message that starts a task.
pub(crate) fn start_task(place: Place, spec: TaskSpec, store: v1::StoreAddress) -> v1::StartTask {
    let repository = spec
        .repository
        .unwrap_or(ds_domain::task::Repository { url: String::new(), reference: String::new() });
    v1::StartTask {
        task_id: place.task.to_bytes(),
        volume: place.volume.to_bytes(),
        base: place.base.to_bytes(),
        result: place.result.to_bytes(),
        image: spec.image,
        command: spec.command,
        environment: spec.environment.into_iter().collect(),
        cpus: spec.cpus.unwrap_or(0.0),
        memory_bytes: spec.memory_bytes.unwrap_or(0),
        gpus: match spec.gpus {
            None => 0,
            Some(Gpus::All) => ALL_GPUS,
            Some(Gpus::Count(count)) => count,
        },
        timeout_seconds: spec.timeout_seconds.unwrap_or(0),
        repository: repository.url,
        reference: repository.reference,
        project_name: place.project_name,
        store: Some(store),
    }
}

/// A node's text as it is kept: of at most `chars` characters, without NUL, which no database of ours keeps in
/// text.
pub(crate) fn text(said: &str, chars: usize) -> String {
    said.chars().take(chars).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The message that carries `message`.
pub(crate) fn to_runner(message: v1::to_runner::Message) -> v1::ToRunner {
    v1::ToRunner { message: Some(message) }
}
