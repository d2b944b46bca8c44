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
    task::State,
};
use ds_proto::v1::{StoreAddress, to_runner};

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
            send_start(core, runner, row);
        }
    }
    note_waiting(core, &queued, decisions.waiting).await
}

async fn decide(core: &Core, queued: &[TaskRow]) -> Result<Decisions, ds_db::Error> {
    let assigned = core.db.assigned_tasks().await?;
    let busy = |runner: RunnerId| assigned.iter().filter(|row| row.runner == Some(runner)).count();
    let candidates: Vec<Candidate> = core
        .sessions
        .profiles()
        .into_iter()
        .map(|(runner, profile)| Candidate {
            runner,
            name: profile.name,
            labels: profile.labels,
            slots: profile.slots,
            busy: u32::try_from(busy(runner)).unwrap_or(u32::MAX),
            cpus: profile.machine.cpus,
            memory_bytes: profile.machine.memory_bytes,
            gpus: u32::try_from(profile.machine.gpus.len()).unwrap_or(u32::MAX),
            holds: profile.holds,
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

/// Tells a runner to start a task that it has. If it is not there, it is told when it connects.
pub(crate) fn send_start(core: &Core, runner: RunnerId, row: TaskRow) {
    let Some(base) = row.base_snapshot else {
        tracing::error!(task.id = %row.task.id, "an assigned task has no base");
        return;
    };
    let store =
        StoreAddress { node_id: core.store_target.node.to_bytes(), address: core.store_target.for_runners() };
    let place = Place {
        task: row.task.id,
        volume: row.volume,
        base,
        result: row.result,
        project_name: row.task.project_name,
    };
    core.sessions.send(runner, to_runner::Message::Start(start_task(place, row.task.spec, store)));
}

/// Tasks of runners that fell silent: one that the runner never took goes back to the queue, one that was
/// cancelled ends. One that runs stays: the runner may come back with it.
async fn settle_silent_runners(core: &Core) -> Result<(), ds_db::Error> {
    let assigned = core.db.assigned_tasks().await?;
    let unsettled = |row: &&TaskRow| row.task.cancelling || row.task.state == State::Scheduled;
    for row in assigned.iter().filter(unsettled) {
        let Some(runner) = row.runner else { continue };
        if core.sessions.is_connected(runner) {
            continue;
        }
        let seen = core.db.runner(runner).await.ok().and_then(|row| row.runner.seen_ms);
        if core.is_online(runner, seen) {
            continue;
        }
        if row.task.cancelling {
            core.end_cancelled_without_runner(row.task.id).await?;
        } else if core.db.requeue_task(row.task.id, runner).await? {
            tracing::info!(task.id = %row.task.id, runner.id = %runner, "took a task back from a silent runner");
            core.events.publish(Event::Task { id: row.task.id, project: row.task.project });
        }
    }
    Ok(())
}
