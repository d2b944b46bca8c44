//! Tasks: waiting, cancelled, followed.

use ds_domain::{
    TaskId,
    api::{Page, Progress, Project, Task},
    task::{Outcome, Phase, State},
};
use ds_proto::v1::{self, to_runner};
use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::{
    fake_runner::{FakeRunner, receipt, succeeded, task_id},
    nodes::wait_for,
    support::TestHub,
};

async fn queue(hub: &TestHub, project: &Project) -> Task {
    let body = json!({"spec": {"command": ["true"]}});
    hub.admin.post_as(&format!("/api/v1/projects/{}/tasks", project.name), &body).await
}

async fn cancel(hub: &TestHub, task: TaskId) -> Task {
    hub.admin.post_as(&format!("/api/v1/tasks/{task}/cancel"), &json!({})).await
}

#[tokio::test]
async fn a_task_says_why_it_waits_and_is_found_by_the_start_of_its_id() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let task = queue(&hub, &project).await;
    assert_eq!(task.spec.image, "test-image");
    let waiting = wait_for(&hub, task.id, |task| !task.detail.is_empty()).await;
    assert!(waiting.detail.contains("no runner"), "{}", waiting.detail);
    let short = &task.id.to_string()[..8];
    let found: Task = hub.admin.get_as(&format!("/api/v1/tasks/{short}")).await;
    assert_eq!(found.id, task.id);
    assert_eq!(hub.admin.get("/api/v1/tasks/abc").await.0, StatusCode::BAD_REQUEST);
    hub.stop().await;
}

#[tokio::test]
async fn asking_twice_with_one_id_makes_one_task() {
    let hub = TestHub::start().await;
    hub.project("p").await;
    hub.project("q").await;
    let body = json!({"id": Uuid::new_v4(), "spec": {"command": ["true"]}});
    assert_eq!(hub.admin.post("/api/v1/projects/p/tasks", &body).await.0, StatusCode::CREATED);
    assert_eq!(hub.admin.post("/api/v1/projects/p/tasks", &body).await.0, StatusCode::OK);
    assert_eq!(hub.admin.post("/api/v1/projects/q/tasks", &body).await.0, StatusCode::CONFLICT);
    let tasks: Page<Task> = hub.admin.get_as("/api/v1/projects/p/tasks").await;
    assert_eq!(tasks.items.len(), 1);
    let (status, answer) =
        hub.admin.post("/api/v1/projects/p/tasks", &json!({"spec": {"command": []}})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    hub.stop().await;
}

#[tokio::test]
async fn cancelling_ends_what_waits_and_stops_what_runs() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let waiting = queue(&hub, &project).await;
    assert_eq!(cancel(&hub, waiting.id).await.outcome, Some(Outcome::Cancelled));

    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    queue(&hub, &project).await;
    let start = session.started().await;
    session.progress(task_id(&start), v1::TaskPhase::Running).await;
    assert_eq!(session.log(task_id(&start), 0, b"x").await.unwrap(), 1);
    let stopping = cancel(&hub, task_id(&start)).await;
    assert!(stopping.cancelling && stopping.state == State::Running);
    let is_stop =
        |m: &to_runner::Message| matches!(m, to_runner::Message::Stop(s) if s.task_id == start.task_id);
    assert!(is_stop(&session.next().await.unwrap()));
    // It may have come before the runner knew of the task.
    session.progress(task_id(&start), v1::TaskPhase::Running).await;
    assert!(is_stop(&session.next().await.unwrap()));

    // A runner that missed it is told again.
    let mut session = runner.connect_holding(&hub, &[(task_id(&start), v1::TaskPhase::Running)]).await;
    assert!(matches!(session.next().await.unwrap(), to_runner::Message::LogAck(_)));
    assert!(is_stop(&session.next().await.unwrap()));
    let mut finished = succeeded(&start, Some(receipt(&hub.store, &start)));
    finished.outcome = v1::Outcome::Cancelled.into();
    finished.exit_code = None;
    assert!(matches!(session.finish(finished).await.unwrap(), to_runner::Message::FinishAck(_)));
    let ended: Task = hub.admin.get_as(&format!("/api/v1/tasks/{}", task_id(&start))).await;
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
    assert!(ended.commit.is_some() && ended.runs.len() == 1, "what it did is kept");
    assert_eq!(
        cancel(&hub, ended.id).await.outcome,
        Some(Outcome::Cancelled),
        "cancelling what is over is nothing"
    );
    hub.stop().await;
}

#[tokio::test]
async fn cancelling_a_task_of_a_silent_runner_twice_ends_it_and_the_runner_forgets_it() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    queue(&hub, &project).await;
    let start = session.started().await;
    session.progress(task_id(&start), v1::TaskPhase::Running).await;
    assert_eq!(session.log(task_id(&start), 0, b"x").await.unwrap(), 1);
    drop(session);
    let hub = hub.restart().await;
    // As if it had been silent for long.
    hub.db.runner_seen(runner.id, 1).await.unwrap();
    let asked = cancel(&hub, task_id(&start)).await;
    assert!(asked.cancelling && asked.state == State::Running, "{asked:?}");
    assert!(asked.detail.contains("cancel again"), "{}", asked.detail);
    let ended = cancel(&hub, task_id(&start)).await;
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
    let mut session = runner.connect_holding(&hub, &[(task_id(&start), v1::TaskPhase::Running)]).await;
    assert!(matches!(session.next().await.unwrap(), to_runner::Message::Forget(_)));
    hub.stop().await;
}

#[tokio::test]
async fn a_follower_gets_every_byte_and_then_the_end() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    let task = queue(&hub, &project).await;
    let start = session.started().await;
    let path = format!("/api/v1/tasks/{}/log?follow=true", task.id);
    let mut following = hub.admin.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(session.log(task.id, 0, b"one\n").await.unwrap(), 4);
    assert_eq!(following.chunk().await.unwrap().unwrap(), "one\n");
    assert_eq!(session.log(task.id, 4, b"\xff\xfe\x00").await.unwrap(), 7);
    assert_eq!(&following.chunk().await.unwrap().unwrap()[..], b"\xff\xfe\x00");
    let finished = v1::TaskFinished { log_bytes: 7, ..succeeded(&start, None) };
    session.finish(finished).await.unwrap();
    assert!(following.chunk().await.unwrap().is_none());
    let tail = hub.admin.request(Method::GET, &format!("/api/v1/tasks/{}/log?offset=4", task.id));
    assert_eq!(&tail.send().await.unwrap().bytes().await.unwrap()[..], b"\xff\xfe\x00");
    hub.stop().await;
}

#[tokio::test]
async fn events_of_foreign_projects_are_not_told() {
    let hub = TestHub::start().await;
    let (secret, open) = (hub.project("secret").await, hub.project("open").await);
    let ann = hub.user("ann").await;
    hub.add_member(&open, &ann, ds_domain::api::Access::Viewer).await;
    let mut events = ann.request(Method::GET, "/api/v1/events").send().await.unwrap();
    queue(&hub, &secret).await;
    let seen = queue(&hub, &open).await;
    let first = String::from_utf8(events.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.contains("event: task") && first.contains(&seen.id.to_string()), "{first}");
    assert!(!first.contains(&secret.id.to_string()), "{first}");
    hub.stop().await;
}

#[tokio::test]
async fn bytes_that_move_are_told_as_they_do_and_not_written_down() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    let task = queue(&hub, &project).await;
    session.started().await;
    session.moved(task.id, 0, None).await;
    wait_for(&hub, task.id, |task| task.progress.is_some()).await;
    let mut events = hub.admin.request(Method::GET, "/api/v1/events").send().await.unwrap();
    session.moved(task.id, 40_000_000, Some(120_000_000)).await;
    let told = String::from_utf8(events.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(told.contains("event: progress") && told.contains("\"done_bytes\":40000000"), "{told}");
    let shown: Task = hub.admin.get_as(&format!("/api/v1/tasks/{}", task.id)).await;
    let progress = Progress { done_bytes: 40_000_000, total_bytes: Some(120_000_000) };
    assert_eq!((shown.progress, shown.detail.as_str()), (Some(progress), "working"));

    session.progress(task.id, v1::TaskPhase::Running).await;
    let running = wait_for(&hub, task.id, |task| task.phase == Some(Phase::Running)).await;
    assert_eq!(running.progress, None);

    // What is lost with a session is told again in the next.
    session.moved(task.id, 1, None).await;
    wait_for(&hub, task.id, |task| task.progress.is_some()).await;
    drop(session);
    wait_for(&hub, task.id, |task| task.progress.is_none()).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_task_goes_to_the_runner_that_has_the_newest_snapshot() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let mut holder = FakeRunner::new(&hub, "b").await.connect(&hub).await;
    queue(&hub, &project).await;
    let start = holder.started().await;
    let made = holder.finish(succeeded(&start, Some(receipt(&hub.store, &start)))).await.unwrap();
    assert!(matches!(made, to_runner::Message::FinishAck(ack) if ack.advanced));

    // By name and by free slots the other one would be first. A task that only it can take shows that it is ready.
    let labels = [("only".to_owned(), "a".to_owned())].into();
    let hello = v1::Hello { slots: 8, labels, ..FakeRunner::hello() };
    let mut other = FakeRunner::new(&hub, "a").await.connect_with(&hub, hello).await.unwrap();
    let body = json!({"spec": {"command": ["true"], "labels": {"only": "a"}}});
    let _: Task = hub.admin.post_as("/api/v1/projects/p/tasks", &body).await;
    other.started().await;

    let task = queue(&hub, &project).await;
    let next = holder.started().await;
    assert_eq!((task_id(&next), next.base), (task.id, start.result));
    hub.stop().await;
}

#[tokio::test]
async fn a_runner_gets_as_many_tasks_at_once_as_it_has_slots() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let mut session = FakeRunner::new(&hub, "box").await.connect(&hub).await;
    for _ in 0..2 {
        queue(&hub, &project).await;
    }
    let first = session.started().await;
    session.started().await;
    let third = queue(&hub, &project).await;
    let waiting = wait_for(&hub, third.id, |task| !task.detail.is_empty()).await;
    assert!(waiting.detail.contains("full (2 of 2 slots)"), "{}", waiting.detail);
    session.finish(succeeded(&first, None)).await.unwrap();
    assert_eq!(task_id(&session.started().await), third.id);
    hub.stop().await;
}
