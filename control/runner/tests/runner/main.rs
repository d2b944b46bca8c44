//! Tasks on a real runner: Docker, a pool in a file, a store, and a stand-in for the hub.
#![expect(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod daemon;
mod image;
mod world;

use std::time::Duration;

use ds_domain::{SnapshotId, TaskId};
use ds_proto::v1::{self, Outcome, TaskPhase, to_runner};

use crate::{
    daemon::Daemon,
    world::{World, inside, output},
};

const RECORD: &str = "[[DOTSCIENCE-RUN:3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11]]{}[[/DOTSCIENCE-RUN:3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11]]";
/// Prints, waits for a file, prints again.
const WAITS: &str = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two";

fn result_of(start: &v1::StartTask) -> SnapshotId {
    SnapshotId::from_bytes(&start.result).unwrap()
}

fn stop(task: TaskId) -> to_runner::Message {
    to_runner::Message::Stop(v1::StopTask { task_id: task.to_bytes(), reason: Outcome::Cancelled.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_did_is_kept_and_the_next_task_finds_it() {
    let world = World::new().await;
    let script = format!("echo '{RECORD}'; echo kept > made; exit 3");
    let start = world.task(world.first, &script);
    let head = result_of(&start);
    let task = world.start(start.clone()).await;
    // A message that arrives twice is one task.
    world.start(start).await;

    let finished = world.finished(task).await;
    assert_eq!((finished.outcome(), finished.exit_code), (Outcome::Failed, Some(3)), "{}", finished.error);
    assert!(finished.started_ms > 0 && finished.ended_ms >= finished.started_ms);
    assert!(finished.image_digest.starts_with("sha256:"));
    let made = v1::FileChange { path: "made".into(), change: v1::Change::Added.into(), size_bytes: 5 };
    assert_eq!(finished.changes, [made]);
    assert_eq!(finished.records.len(), 1);
    assert_eq!(world.told().logs[&task], format!("{RECORD}\n").into_bytes());
    assert_eq!(finished.log_bytes, RECORD.len() as u64 + 1);
    assert_eq!(world.receipt(&finished).snapshot, head.to_bytes());
    world.acknowledge(task, head).await;
    assert_eq!(world.traces(task), [""; 0]);

    let next = world.task(head, "cat made");
    let last = result_of(&next);
    let task = world.start(next).await;
    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    assert_eq!((finished.changes.len(), finished.log_bytes), (0, 5));
    world.acknowledge(task, last).await;
    assert_eq!(world.traces(task), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_runner_or_the_session_loses_no_task_and_no_byte() {
    let mut world = World::new().await;
    let start = world.task(world.first, WAITS);
    let task = world.start(start).await;
    world.log_of(task, "one\n").await;

    world.stop_runner().await;
    world.start_runner().await;
    let hello = world.told().hellos.last().unwrap().clone();
    assert_eq!(hello.tasks[0].task_id, task.to_bytes());
    assert_eq!(hello.tasks[0].phase(), TaskPhase::Running);
    world.reconnect().await;
    inside(task, "echo > go");

    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    assert_eq!(world.told().logs[&task], b"one\ntwo\n");

    // A result that was not acknowledged is told again.
    world.stop_runner().await;
    world.start_runner().await;
    assert_eq!(world.told().hellos.last().unwrap().tasks[0].phase(), TaskPhase::Finished);
    world
        .say(to_runner::Message::FinishAck(v1::FinishAck { task_id: task.to_bytes(), advanced: false }))
        .await;
    world.until(|told| told.released.contains(&task)).await;
    assert_eq!(world.traces(task), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_cancelled_or_out_of_time_keeps_what_it_did() {
    let world = World::new().await;
    let cancelled = world.start(world.task(world.first, "echo x > made; echo one; sleep 1000")).await;
    let late = v1::StartTask { timeout_seconds: 2, ..world.task(world.first, "echo x > made; sleep 1000") };
    let late = world.start(late).await;
    world.log_of(cancelled, "one\n").await;
    world.say(stop(cancelled)).await;
    for (task, outcome) in [(cancelled, Outcome::Cancelled), (late, Outcome::TimedOut)] {
        let finished = world.finished(task).await;
        assert_eq!(finished.outcome(), outcome, "{}", finished.error);
        assert_eq!(finished.changes.len(), 1);
        world.receipt(&finished);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why_and_is_committed_all_the_same() {
    let world = World::new().await;
    let unknown =
        v1::StartTask { image: "127.0.0.1:1/no/such:image".into(), ..world.task(world.first, "true") };
    let unreachable =
        v1::StartTask { repository: "http://127.0.0.1:1/x.git".into(), ..world.task(world.first, "true") };
    for (start, words) in
        [(unknown, "could not be pulled"), (unreachable, "cannot be reached from the runner")]
    {
        let task = world.start(start).await;
        let finished = world.finished(task).await;
        assert_eq!((finished.outcome(), finished.exit_code), (Outcome::Error, None));
        assert!(finished.error.contains(words), "{}", finished.error);
        world.receipt(&finished);
        let forget = v1::Forget { task_id: task.to_bytes() };
        world.say(to_runner::Message::Forget(forget)).await;
        world.until(|told| told.released.contains(&task)).await;
        assert_eq!(world.traces(task), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_the_hub_forgot_leaves_nothing() {
    let world = World::new().await;
    let task = world.start(world.task(world.first, WAITS)).await;
    world.log_of(task, "one\n").await;
    let forget = v1::Forget { task_id: task.to_bytes() };
    world.say(to_runner::Message::Forget(forget)).await;
    world.until(|told| told.released.contains(&task)).await;
    assert_eq!(world.traces(task), [""; 0]);
    assert!(!world.told().finished.contains_key(&task));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removed_ends_its_task() {
    let world = World::new().await;
    let task = world.start(world.task(world.first, WAITS)).await;
    world.log_of(task, "one\n").await;
    output("docker", &["rm", "--force", &format!("ds-{task}")]);
    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Error);
    assert!(finished.error.contains("container"), "{}", finished.error);
    world.receipt(&finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_an_earlier_process_are_removed() {
    let mut world = World::new().await;
    let task = world.start(world.task(world.first, WAITS)).await;
    world.log_of(task, "one\n").await;
    world.stop_runner().await;
    world.lose_journal(task);
    assert_eq!(world.traces(task).len(), 3);
    world.start_runner().await;
    assert_eq!(world.traces(task), [""; 0]);
    assert!(world.told().hellos.last().unwrap().tasks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_docker_ends_a_command_and_is_told() {
    let mut daemon = Daemon::start().await;
    let world = World::on(Some(daemon.host())).await;
    let task = world.start(world.task(world.first, WAITS)).await;
    world.log_of(task, "one\n").await;
    daemon.restart().await;
    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Error);
    assert!(finished.error.contains("Docker daemon was restarted"), "{}", finished.error);
    assert_eq!(world.told().logs[&task], b"one\n");
    world.receipt(&finished);
    world.say(to_runner::Message::Forget(v1::Forget { task_id: task.to_bytes() })).await;
    world.until(|told| told.released.contains(&task)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_again_and_again_runs_a_command_once() {
    let mut world = World::new().await;
    let script = "echo one; echo x >> made; sleep 1; echo two";
    let start = world.task(world.first, script);
    let head = result_of(&start);
    let task = world.start(start).await;
    // Wherever it is by then: each pause is a little longer than the one before.
    for pause_ms in (0..).map(|round| round * 40) {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        world.kill_runner().await;
        world.start_runner().await;
        if world.told().finished.contains_key(&task) {
            break;
        }
        // A hub that hears nothing of a task starts it again.
        if world.told().hellos.last().unwrap().tasks.is_empty() {
            world.restart(task).await;
        }
    }
    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    let made = v1::FileChange { path: "made".into(), change: v1::Change::Added.into(), size_bytes: 2 };
    assert_eq!(finished.changes, [made]);
    assert_eq!(world.told().logs[&task], b"one\ntwo\n");
    world.acknowledge(task, head).await;
    assert_eq!(world.traces(task), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_wanted_again_while_it_is_let_go_of_runs_again() {
    let world = World::new().await;
    let task = world.start(world.task(world.first, WAITS)).await;
    world.log_of(task, "one\n").await;
    world.say(to_runner::Message::Forget(v1::Forget { task_id: task.to_bytes() })).await;
    world.restart(task).await;
    // Only the second container gets to hear of it: the first one is being removed.
    while !world.told().finished.contains_key(&task) {
        let name = format!("ds-{task}");
        let arguments = ["exec", &name, "sh", "-c", "echo > go"];
        std::process::Command::new("docker").args(arguments).output().unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    assert!(!world.told().released.contains(&task));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_not_here_is_said_to_be_released() {
    let world = World::new().await;
    let unknown = TaskId(uuid::Uuid::new_v4());
    world.say(stop(unknown)).await;
    world.until(|told| told.released.contains(&unknown)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_stored_can_be_given_up_however_the_command_ended() {
    let world = World::new().await;
    world.refuse_results("the store is being moved");
    let cancelled = world.start(world.task(world.first, WAITS)).await;
    let late = v1::StartTask { timeout_seconds: 1, ..world.task(world.first, "sleep 1000") };
    let late = world.start(late).await;
    world.log_of(cancelled, "one\n").await;
    world.say(stop(cancelled)).await;
    let blocked = |task: TaskId, words: &'static str| {
        world.until(move |told| told.progress.get(&task).is_some_and(|p| p.detail.contains(words)))
    };
    blocked(late, "give it up, cancel the task").await;
    world.say(stop(late)).await;
    blocked(cancelled, "give it up, cancel the task again").await;
    world.say(stop(cancelled)).await;
    for task in [late, cancelled] {
        let finished = world.finished(task).await;
        assert_eq!(finished.outcome(), Outcome::Error);
        let error = &finished.error;
        assert!(error.contains("could not be kept") && error.contains("being moved"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_moved_is_found_by_the_ticket() {
    let world = World::new().await;
    let mut start = world.task(world.first, "true");
    world.move_store(&mut start);
    let finished = world.finished(world.start(start).await).await;
    assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    world.receipt(&finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_runner_lets_go_of_everything() {
    let world = World::new().await;
    let task = world.start(world.task(world.first, WAITS)).await;
    world.log_of(task, "one\n").await;
    world.remove().await;
    while !world.traces(task).is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_keeps_what_tasks_use_and_makes_room_for_it() {
    let world = World::new().await;
    let start = world.task(world.first, "true");
    let head = result_of(&start);
    let task = world.start(start).await;
    world.finished(task).await;
    // A branch of the workspace that no task uses is dropped when the head has moved on.
    let branch = world.put(Some((world.volume(), world.first)), 1000).await;
    world.acknowledge(task, head).await;
    assert_eq!(world.pool().await.find(world.volume(), branch).await.unwrap(), None);

    // A workspace that has no room beside others makes them go, the oldest first.
    let (old, new) = (world.put(None, 60_000_000).await, world.put(None, 10_000_000).await);
    let base = world.import(head, 60_000_000).await;
    let task = world.start(world.task(base, "[ -e f ]")).await;
    let finished = world.finished(task).await;
    assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    let left = world.pool().await.all_snapshots().await.unwrap();
    let left: Vec<_> = left.into_iter().map(|(_, snapshot)| snapshot.id).collect();
    assert!(!left.contains(&old) && left.contains(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fitted_into_a_full_pool_is_kept_and_the_pool_is_named() {
    let world = World::new().await;
    let task = world.start(world.task(world.first, "head -c 300000000 /dev/urandom > big")).await;
    let finished = world.finished(task).await;
    assert_eq!((finished.outcome(), finished.exit_code), (Outcome::Failed, Some(1)));
    assert!(finished.error.contains("the runner's pool is full"), "{}", finished.error);
    assert_eq!(finished.changes.len(), 1);
    world.receipt(&finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_needs_more_memory_than_it_has_is_ended_and_told_so() {
    let world = World::new().await;
    let script = "echo kept > made; x=$(busybox yes | head -c 500000000); echo ${#x}";
    let task = v1::StartTask { memory_bytes: 32 << 20, ..world.task(world.first, script) };
    let finished = world.finished(world.start(task).await).await;
    assert_eq!((finished.outcome(), finished.exit_code), (Outcome::Failed, Some(137)), "{}", finished.error);
    let error = &finished.error;
    assert!(error.contains("more than its 32 MiB of memory") && error.contains("--memory"), "{error}");
    assert_eq!(finished.changes.len(), 1, "what it did before is kept");
    world.receipt(&finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_slots_are_two_commands_at_once() {
    let world = World::new().await;
    assert_eq!(world.told().hellos[0].slots, 2);
    let mut tasks = Vec::new();
    for _ in 0..2 {
        tasks.push(world.start(world.task(world.first, WAITS)).await);
    }
    for task in &tasks {
        world.log_of(*task, "one\n").await;
    }
    assert!(world.told().finished.is_empty(), "both run");
    for task in tasks {
        inside(task, "echo > go");
        let finished = world.finished(task).await;
        assert_eq!(finished.outcome(), Outcome::Succeeded, "{}", finished.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_short_command_used_is_known_and_of_one_that_never_ran_nothing_is_said() {
    let world = World::new().await;
    let ran = world.start(world.task(world.first, "head -c 50000000 /dev/urandom > /dev/null")).await;
    let finished = world.finished(ran).await;
    assert!(finished.cpu_seconds.unwrap() > 0.0 && finished.peak_memory_bytes.unwrap() > 0, "{finished:?}");
    let never = v1::StartTask { image: "127.0.0.1:1/no:image".into(), ..world.task(world.first, "true") };
    let finished = world.finished(world.start(never).await).await;
    assert_eq!((finished.cpu_seconds, finished.peak_memory_bytes), (None, None));
}
