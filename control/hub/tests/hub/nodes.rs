//! Registration and sessions: who gets in, and what a runner that comes back is told.

use ds_db::NewRunner;
use ds_domain::{
    NodeId, RunnerId, TaskId,
    api::{Project, Task},
    task::{Outcome, State},
};
use ds_link::{Ca, Identity, NodeKey, Role};
use ds_proto::{
    PROTOCOL,
    v1::{self, Hello, to_runner},
};
use reqwest::StatusCode;
use serde_json::json;
use tonic::Code;
use uuid::Uuid;

use crate::{
    fake_runner::{self, FakeRunner, receipt, succeeded, task_id},
    support::TestHub,
};

async fn queue(hub: &TestHub, project: &Project) -> Task {
    let body = json!({"spec": {"command": ["python", "train.py"]}});
    hub.admin.post_as(&format!("/api/v1/projects/{}/tasks", project.id), &body).await
}

async fn task(hub: &TestHub, id: TaskId) -> Task {
    hub.admin.get_as(&format!("/api/v1/tasks/{id}")).await
}

#[tokio::test]
async fn a_token_works_once_for_a_runner_of_this_protocol() {
    let hub = TestHub::start().await;
    let (_, token) = fake_runner::create(&hub, "box").await;
    let key = NodeKey::generate().unwrap();

    let newer = v1::RegisterRequest { protocol: PROTOCOL + 1, ..fake_runner::request(&token, &key) };
    let refused = fake_runner::register(&hub, newer).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("upgrade the hub"), "{refused}");

    let store = v1::RegisterRequest { role: v1::Role::Store.into(), ..fake_runner::request(&token, &key) };
    assert_eq!(fake_runner::register(&hub, store).await.unwrap_err().code(), Code::PermissionDenied);
    let no_request = v1::RegisterRequest { csr_pem: "x".into(), ..fake_runner::request(&token, &key) };
    assert_eq!(fake_runner::register(&hub, no_request).await.unwrap_err().code(), Code::InvalidArgument);
    let unknown = v1::RegisterRequest { token_secret: "guess".into(), ..fake_runner::request(&token, &key) };
    assert_eq!(fake_runner::register(&hub, unknown).await.unwrap_err().code(), Code::PermissionDenied);

    assert!(fake_runner::register(&hub, fake_runner::request(&token, &key)).await.is_ok());
    let replay = fake_runner::register(&hub, fake_runner::request(&token, &key)).await.unwrap_err();
    assert_eq!(replay.code(), Code::PermissionDenied);
    assert!(replay.message().contains("ds runner"), "{replay}");
    hub.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let hub = TestHub::start().await;
    let (_, token) = fake_runner::create(&hub, "other").await;
    let secret_hash = ds_db::TokenHash(sha256(b"old-secret"));
    let new = NewRunner {
        id: RunnerId(Uuid::new_v4()),
        name: "late".into(),
        token: secret_hash,
        token_expires_ms: 1000,
        created_ms: 1,
    };
    hub.db.create_runner(&new).await.unwrap();
    let key = NodeKey::generate().unwrap();
    let late =
        v1::RegisterRequest { token_secret: "old-secret".into(), ..fake_runner::request(&token, &key) };
    let refused = fake_runner::register(&hub, late).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    hub.stop().await;
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().unwrap()
}

#[tokio::test]
async fn a_session_needs_the_certificate_of_a_known_runner() {
    let hub = TestHub::start().await;
    let runner = FakeRunner::new(&hub, "box").await;
    let as_other = |identity: Identity| FakeRunner { id: runner.id, identity };
    let code = |result: Result<_, tonic::Status>| result.err().map(|status| status.code());

    let store = as_other(hub.state.issue(Role::Store, NodeId(Uuid::new_v4())).unwrap());
    assert_eq!(code(store.connect_with(&hub, FakeRunner::hello()).await), Some(Code::PermissionDenied));
    let unknown = as_other(hub.state.issue(Role::Runner, NodeId(Uuid::new_v4())).unwrap());
    assert_eq!(code(unknown.connect_with(&hub, FakeRunner::hello()).await), Some(Code::Unauthenticated));
    let copied_id = as_other(hub.state.issue(Role::Runner, runner.id.into()).unwrap());
    assert_eq!(code(copied_id.connect_with(&hub, FakeRunner::hello()).await), Some(Code::Unauthenticated));

    // Another CA's certificate does not come through the handshake.
    let foreign = Ca::create().unwrap().issue(Role::Runner, runner.id.into()).unwrap();
    assert!(as_other(foreign).connect_with(&hub, FakeRunner::hello()).await.is_err());

    let older = Hello { protocol: PROTOCOL - 1, version: "0.0.1".into(), ..FakeRunner::hello() };
    let refused = runner.connect_with(&hub, older).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("0.0.1") && refused.message().contains("upgrade the runner"),
        "{refused}"
    );

    let mut session = runner.connect(&hub).await;
    assert_eq!(hub.admin.delete("/api/v1/runners/box").await.0, StatusCode::NO_CONTENT);
    assert!(session.next().await.is_err(), "removing a runner ends its session");
    assert_eq!(code(runner.connect_with(&hub, FakeRunner::hello()).await), Some(Code::Unauthenticated));
    hub.stop().await;
}

#[tokio::test]
async fn a_second_session_replaces_the_first() {
    let hub = TestHub::start().await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut first = runner.connect(&hub).await;
    let _second = runner.connect(&hub).await;
    let ended = first.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    let shown: ds_domain::api::Runner = hub.admin.get_as("/api/v1/runners/box").await;
    assert!(shown.online && shown.slots == 2 && shown.registered);
    hub.stop().await;
}

#[tokio::test]
async fn a_runner_that_comes_back_is_told_what_it_missed() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    queue(&hub, &project).await;
    queue(&hub, &project).await;
    let (lost, kept) = (session.started().await, session.started().await);
    session.progress(task_id(&kept), v1::TaskPhase::Running).await;
    assert_eq!(session.log(task_id(&kept), 0, b"hello ").await.unwrap(), 6);
    drop(session);

    // `lost` was never taken: it is started again. `kept` goes on from the stored offset. Nobody knows the third.
    let hub = hub.restart().await;
    let stranger = TaskId(Uuid::new_v4());
    let phase = v1::TaskPhase::Running;
    let mut session = runner.connect_holding(&hub, &[(task_id(&kept), phase), (stranger, phase)]).await;
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(session.next().await.unwrap());
    }
    assert!(said.iter().any(|m| matches!(m, to_runner::Message::Start(start) if start == &lost)), "{said:?}");
    let ack = |m: &to_runner::Message| matches!(m, to_runner::Message::LogAck(ack) if ack.task_id == kept.task_id && ack.offset == 6);
    assert!(said.iter().any(ack), "{said:?}");
    let forget = |m: &to_runner::Message| matches!(m, to_runner::Message::Forget(f) if f.task_id == stranger.to_bytes());
    assert!(said.iter().any(forget), "{said:?}");
    assert_eq!(session.log(task_id(&kept), 3, b"lo world").await.unwrap(), 11, "an overlap is stored once");
    let log = hub.admin.request(reqwest::Method::GET, &format!("/api/v1/tasks/{}/log", task_id(&kept)));
    let response = log.send().await.unwrap();
    assert_eq!(response.headers()["x-log-bytes"], "11");
    assert_eq!(response.bytes().await.unwrap(), "hello world");
    hub.stop().await;
}

#[tokio::test]
async fn a_running_task_that_its_runner_lost_ends_with_an_error() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    queue(&hub, &project).await;
    let start = session.started().await;
    session.progress(task_id(&start), v1::TaskPhase::Running).await;
    assert_eq!(session.log(task_id(&start), 0, b"x").await.unwrap(), 1);
    let _again = runner.connect(&hub).await;
    // Reconciliation comes before the scheduler is woken, which the next task shows.
    queue(&hub, &project).await;
    let ended = wait_for(&hub, task_id(&start), |task| task.state == State::Ended).await;
    assert_eq!(ended.outcome, Some(Outcome::Error));
    assert!(ended.error.contains("run it again"), "{}", ended.error);
    hub.stop().await;
}

#[tokio::test]
async fn a_task_is_given_back_to_a_runner_only_after_it_let_go_of_it() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    // It was taken back from the runner, which still has it.
    let requeued = queue(&hub, &project).await;
    let mut session = runner.connect_holding(&hub, &[(requeued.id, v1::TaskPhase::Running)]).await;
    assert!(
        matches!(session.next().await.unwrap(), to_runner::Message::Forget(f) if f.task_id == requeued.id.to_bytes())
    );
    let other = queue(&hub, &project).await;
    assert_eq!(task_id(&session.started().await), other.id);
    let waiting = wait_for(&hub, requeued.id, |task| task.detail.contains("earlier attempt")).await;
    assert_eq!(waiting.state, State::Queued);
    session.release(requeued.id).await;
    assert_eq!(task_id(&session.started().await), requeued.id);
    hub.stop().await;
}

#[tokio::test]
async fn a_runner_that_lets_go_of_a_task_that_it_should_have_is_told_again_or_lost_it() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    queue(&hub, &project).await;
    let start = session.started().await;
    session.release(task_id(&start)).await;
    assert_eq!(session.started().await, start, "it was not taken yet: it is started again");
    session.progress(task_id(&start), v1::TaskPhase::Running).await;
    session.release(task_id(&start)).await;
    let ended = wait_for(&hub, task_id(&start), |task| task.state == State::Ended).await;
    assert_eq!(ended.outcome, Some(Outcome::Error));
    hub.stop().await;
}

#[tokio::test]
async fn a_removed_runner_that_comes_back_is_told_to_drop_what_it_has() {
    let hub = TestHub::start().await;
    let runner = FakeRunner::new(&hub, "box").await;
    assert_eq!(hub.admin.delete("/api/v1/runners/box").await.0, StatusCode::NO_CONTENT);
    let held = TaskId(Uuid::new_v4());
    let mut session = runner.connect_holding(&hub, &[(held, v1::TaskPhase::Running)]).await;
    let forgets = |said: &to_runner::Message| matches!(said, to_runner::Message::Forget(f) if f.task_id == held.to_bytes());
    assert!(forgets(&session.next().await.unwrap()));
    session.progress(held, v1::TaskPhase::Running).await;
    assert!(forgets(&session.next().await.unwrap()));
    assert!(!session.ticket(held, v1::Direction::Push).await.refusal.is_empty());
    session.release(held).await;
    assert_eq!(session.next().await.unwrap_err().code(), Code::Unauthenticated);
    let refused = runner.connect_with(&hub, FakeRunner::hello()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    hub.stop().await;
}

#[tokio::test]
async fn who_has_no_certificate_sends_little() {
    let hub = TestHub::start().await;
    let (_, token) = fake_runner::create(&hub, "box").await;
    let key = NodeKey::generate().unwrap();
    let large = v1::RegisterRequest { csr_pem: "x".repeat(65 * 1024), ..fake_runner::request(&token, &key) };
    assert_eq!(fake_runner::register(&hub, large).await.unwrap_err().code(), Code::OutOfRange);
    hub.stop().await;
}

#[tokio::test]
async fn missing_log_bytes_are_asked_for() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let mut session = runner.connect(&hub).await;
    queue(&hub, &project).await;
    let start = session.started().await;
    assert_eq!(session.log(task_id(&start), 100, b"x").await.unwrap(), 0);
    assert_eq!(session.log(task_id(&start), 0, b"x").await.unwrap(), 1, "the session goes on");
    let limit = ds_domain::task::MAX_TASK_LOG;
    assert_eq!(session.log(task_id(&start), limit, b"x").await.unwrap(), 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_runner_cannot_touch_another_runners_task() {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let owner = FakeRunner::new(&hub, "owner").await;
    let mut owning = owner.connect(&hub).await;
    queue(&hub, &project).await;
    let start = owning.started().await;
    let thief = FakeRunner::new(&hub, "thief").await;
    let mut session = thief.connect(&hub).await;

    let refused = session.ticket(task_id(&start), v1::Direction::Pull).await;
    assert!(refused.ticket.is_none() && refused.refusal.contains("not this runner's"), "{refused:?}");
    let chunk = v1::LogChunk { task_id: start.task_id.clone(), offset: 0, data: b"forged".to_vec().into() };
    session.say(v1::from_runner::Message::Log(chunk)).await;
    assert!(matches!(session.next().await.unwrap(), to_runner::Message::Forget(_)));
    let forged = session.finish(succeeded(&start, Some(receipt(&hub.store, &start)))).await.unwrap();
    assert!(matches!(forged, to_runner::Message::Forget(_)));
    let untouched = task(&hub, task_id(&start)).await;
    assert_eq!((untouched.state, untouched.log_bytes), (State::Scheduled, 0));
    hub.stop().await;
}

/// Follows the task's events until `done`.
pub(crate) async fn wait_for(hub: &TestHub, id: TaskId, done: impl Fn(&Task) -> bool) -> Task {
    let mut events = hub.admin.request(reqwest::Method::GET, "/api/v1/events").send().await.unwrap();
    loop {
        let now = task(hub, id).await;
        if done(&now) {
            return now;
        }
        events.chunk().await.unwrap().unwrap();
    }
}
