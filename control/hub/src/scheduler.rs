//! Gives queued tasks to the runners that are connected to this process.
//!
//! Which task goes where is decided by [`ds_domain::schedule`]; this is the loop around it. With several hubs
//! each does so for its own runners: the database lets one of them win a task.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use ds_db::TaskRow;
use ds_domain::{
    RunnerId,
    api::Event,
    schedule::{Candidate, Decisions, Waiting, schedule},
    task::{Outcome, State},
};
use ds_proto::v1::to_runner;

use crate::{
    core::Core,
    error::chain,
    nodes::{Place, start_task},
};

/// Tasks looked at in one round; those behind them wait for the next.
const QUEUE_SEEN: u32 = 1000;
/// At least this often, for what happens without an event: silence, and what other hubs do.
const ROUND: Duration = Duration::from_secs(10);

/// Schedules until the hub stops.
pub(crate) async fn run(core: &Core) {
    loop {
        if let Err(error) = round(core).await {
            tracing::warn!(error = %chain(&error), "a round of the scheduler failed");
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = core.events.scheduler_woken() => {}
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn round(core: &Core) -> Result<(), ds_db::Error> {
    settle_silent_runners(core).await?;
    let queued = core.db.queued_tasks(QUEUE_SEEN).await?;
    if queued.is_empty() {
        return Ok(());
    }
    let decisions = decide(core, &queued).await?;
    for (task, runner) in decisions.assign {
        if let Some(row) = core.db.assign_task(task, runner).await? {
            tracing::info!(task.id = %task, runner.id = %runner, "scheduled a task");
            core.events.publish(Event::Task { id: task, project: row.task.project });
            // If it is not there any more, it is told when it connects.
            if let Some(start) = start_message(core, row) {
                core.sessions.send(runner, start);
            }
        }
    }
    note_waiting(core, &queued, decisions.waiting).await
}

async fn decide(core: &Core, queued: &[TaskRow]) -> Result<Decisions, ds_db::Error> {
    let assigned = core.db.assigned_tasks().await?;
    let busy = |runner: RunnerId| assigned.iter().filter(|row| row.runner == Some(runner)).count();
    let candidates: Vec<Candidate> = core
        .sessions
        .ready_runners()
        .into_iter()
        .map(|(runner, profile, letting_go)| Candidate {
            runner,
            name: profile.name,
            labels: profile.labels,
            slots: profile.slots,
            busy: u32::try_from(busy(runner)).unwrap_or(u32::MAX),
            cpus: profile.machine.cpus,
            memory_bytes: profile.machine.memory_bytes,
            gpus: u32::try_from(profile.machine.gpus.len()).unwrap_or(u32::MAX),
            holds: profile.holds,
            letting_go,
        })
        .collect();
    let mut heads = HashMap::new();
    let mut waiting = Vec::with_capacity(queued.len());
    for row in queued {
        let spec = &row.task.spec;
        let base = match heads.entry(row.volume) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => *unknown.insert(core.db.head(row.volume).await?.snapshot),
        };
        waiting.push(Waiting {
            task: row.task.id,
            labels: spec.labels.clone(),
            cpus: spec.cpus,
            memory_bytes: spec.memory_bytes,
            gpus: spec.gpus,
            base,
        });
    }
    let registered = core.db.runners().await?.len();
    Ok(schedule(&waiting, &candidates, registered))
}

/// Writes the reasons that are not there yet.
async fn note_waiting(
    core: &Core,
    queued: &[TaskRow],
    mut reasons: Vec<(ds_domain::TaskId, String)>,
) -> Result<(), ds_db::Error> {
    let project_if_new = |task, reason: &str| {
        queued.iter().find(|row| row.task.id == task && row.task.detail != reason).map(|row| row.task.project)
    };
    reasons.retain(|(task, reason)| project_if_new(*task, reason).is_some());
    if reasons.is_empty() {
        return Ok(());
    }
    core.db.note_waiting(&reasons).await?;
    for (id, reason) in &reasons {
        if let Some(project) = project_if_new(*id, reason) {
            core.events.publish(Event::Task { id: *id, project });
        }
    }
    Ok(())
}

/// What tells its runner to start a task.
pub(crate) fn start_message(core: &Core, row: TaskRow) -> Option<to_runner::Message> {
    let Some(base) = row.base_snapshot else {
        tracing::error!(task.id = %row.task.id, "an assigned task has no base");
        return None;
    };
    let place = Place {
        task: row.task.id,
        volume: row.volume,
        base,
        result: row.result,
        project_name: row.task.project_name,
    };
    Some(to_runner::Message::Start(start_task(place, row.task.spec, core.store_target.told())))
}

/// Tasks that runners which fell silent never took: they go back to the queue, or end if they were cancelled.
/// One that runs stays, cancelled or not: the runner may come back with it.
async fn settle_silent_runners(core: &Core) -> Result<(), ds_db::Error> {
    let assigned = core.db.assigned_tasks().await?;
    for row in assigned.iter().filter(|row| row.task.state == State::Scheduled) {
        let Some(runner) = row.runner else { continue };
        if core.sessions.is_connected(runner) {
            continue;
        }
        let seen = core.db.runner(runner).await.ok().and_then(|row| row.runner.seen_ms);
        if !core.fell_silent(runner, seen) {
            continue;
        }
        if row.task.cancelling {
            let error = "cancelled before its runner took it";
            core.end_without_result(row.task.id, Outcome::Cancelled, error).await?;
        } else if core.db.requeue_task(row.task.id, runner).await? {
            tracing::info!(task.id = %row.task.id, runner.id = %runner, "took a task back from a silent runner");
            core.events.publish(Event::Task { id: row.task.id, project: row.task.project });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ds_db::{NewProject, NewRunner, NewTask, TokenHash};
    use ds_domain::{
        CommitId, NodeId, ProjectId, SnapshotId, TaskId, VolumeId,
        task::{Phase, TaskSpec},
    };
    use uuid::Uuid;

    use super::*;
    use crate::{Hub, StoreTarget};

    /// A core with a runner that was last heard long ago.
    async fn world(dir: &std::path::Path) -> (Core, NewProject, RunnerId) {
        let store = StoreTarget { node: NodeId(Uuid::new_v4()), address: ([127, 0, 0, 1], 9).into() };
        let core = Hub::for_test(dir, store).await.into_core();
        let project = NewProject {
            id: ProjectId(Uuid::new_v4()),
            name: "p".into(),
            description: String::new(),
            owner: core.db.user_by_name("admin").await.unwrap().id,
            workspace: VolumeId(Uuid::new_v4()),
            commit: CommitId(Uuid::new_v4()),
            snapshot: SnapshotId(Uuid::new_v4()),
            guid: 1,
            created_ms: 1,
        };
        core.db.create_project(&project).await.unwrap();
        let id = RunnerId(Uuid::new_v4());
        let token = TokenHash([1; 32]);
        let runner = NewRunner { id, name: "box".into(), token, token_expires_ms: 1, created_ms: 1 };
        core.db.create_runner(&runner).await.unwrap();
        core.db.runner_seen(id, 1).await.unwrap();
        (core, project, id)
    }

    async fn assigned(core: &Core, project: &NewProject, runner: RunnerId) -> TaskId {
        let id = TaskId(Uuid::new_v4());
        let new = NewTask {
            id,
            project: project.id,
            author: project.owner,
            spec: TaskSpec { command: vec!["true".into()], ..TaskSpec::default() },
            result: SnapshotId(Uuid::new_v4()),
            created_ms: 1,
        };
        core.db.create_task(&new).await.unwrap();
        core.db.assign_task(id, runner).await.unwrap().unwrap();
        id
    }

    #[tokio::test]
    async fn a_silent_runner_loses_what_it_never_took_once_it_had_its_time_to_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, project, runner) = world(dir.path()).await;
        let [waits, cancelled, runs] = [
            assigned(&core, &project, runner).await,
            assigned(&core, &project, runner).await,
            assigned(&core, &project, runner).await,
        ];
        core.db.task_progress(runs, runner, Phase::Running, "", 1).await.unwrap();
        for task in [cancelled, runs] {
            core.db.cancel_task(task, 2).await.unwrap();
        }
        let states = async |core: &Core| {
            let mut states = Vec::new();
            for task in [waits, cancelled, runs] {
                states.push(core.db.task(task).await.unwrap().task.state);
            }
            states
        };

        // The hub was away for longer than the runner is allowed to be.
        settle_silent_runners(&core).await.unwrap();
        assert_eq!(states(&core).await, [State::Scheduled, State::Scheduled, State::Running]);
        core.started_ms = 1;
        settle_silent_runners(&core).await.unwrap();
        assert_eq!(states(&core).await, [State::Queued, State::Ended, State::Running]);
    }
}
