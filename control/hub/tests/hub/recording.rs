//! From the end of a task to its commit and runs, and from there back.

use ds_domain::{
    RunId,
    api::{Commit, Comparison, Page, Project, Provenance, ProvenanceNode, Run, Task},
    task::{Outcome, State},
};
use ds_link::{Ca, Role};
use ds_proto::v1::{self, to_runner};
use ds_transfer::ticket::{Presentation, TicketVerifier};
use reqwest::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::{
    fake_runner::{self, FakeRunner, FakeSession, receipt, receipt_for, succeeded, task_id},
    support::TestHub,
};

async fn start(hub: &TestHub, session: &mut FakeSession, command: &[&str]) -> v1::StartTask {
    let body = json!({"spec": {"command": command}});
    let _: Task = hub.admin.post_as("/api/v1/projects/p/tasks", &body).await;
    session.started().await
}

async fn world() -> (TestHub, Project, FakeRunner, FakeSession) {
    let hub = TestHub::start().await;
    let project = hub.project("p").await;
    let runner = FakeRunner::new(&hub, "box").await;
    let session = runner.connect(&hub).await;
    (hub, project, runner, session)
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

pub(crate) fn record(id: u128, json: &serde_json::Value) -> v1::Record {
    v1::Record { run_id: RunId(Uuid::from_u128(id)).to_bytes(), json: json.to_string().into_bytes() }
}

pub(crate) fn changed(path: &str) -> v1::FileChange {
    v1::FileChange { path: path.into(), change: v1::Change::Added.into(), size_bytes: 3 }
}

pub(crate) fn acked(answer: Result<to_runner::Message, tonic::Status>) -> bool {
    match answer.unwrap() {
        to_runner::Message::FinishAck(ack) => ack.advanced,
        other => panic!("expected FinishAck, got {other:?}"),
    }
}

async fn task(hub: &TestHub, start: &v1::StartTask) -> Task {
    hub.admin.get_as(&format!("/api/v1/tasks/{}", task_id(start))).await
}

#[tokio::test]
async fn a_task_without_records_gets_a_derived_run_on_its_commit() {
    let (hub, project, _, mut session) = world().await;
    let start = start(&hub, &mut session, &["python", "train.py"]).await;
    assert_eq!(start.base, hub.db.head(project.workspace).await.unwrap().snapshot.to_bytes());
    let mut finished = succeeded(&start, Some(receipt(&hub.store, &start)));
    finished.outcome = v1::Outcome::Failed.into();
    finished.exit_code = Some(3);
    finished.changes = vec![changed("model.pkl")];
    assert!(acked(session.finish(finished.clone()).await));
    assert!(acked(session.finish(finished).await), "the same end gets the same answer");

    let ended = task(&hub, &start).await;
    assert_eq!((ended.outcome, ended.exit_code), (Some(Outcome::Failed), Some(3)));
    let runs: Page<Run> = hub.admin.get_as("/api/v1/projects/p/runs").await;
    let [run] = &runs.items[..] else { panic!("{runs:?}") };
    assert_eq!((run.authority.as_str(), run.success), ("derived", false));
    assert_eq!(run.description, "python train.py");
    assert_eq!(run.error.as_deref(), Some("the command returned 3"));
    assert_eq!(run.labels["image.digest"], "sha256:feed");
    assert_eq!(run.outputs[0].path, "model.pkl");
    assert_eq!(run.outputs[0].commit, Some(run.commit));

    let commit: Commit = hub.admin.get_as(&format!("/api/v1/commits/{}", run.commit)).await;
    assert_eq!((commit.guid.as_str(), commit.task, commit.changed_files), ("42", Some(ended.id), 1));
    assert_eq!(commit.metadata["type"], "dotscience.run.v1");
    assert_eq!(commit.metadata["workload.image.hash"], "sha256:feed");
    assert_eq!(commit.metadata["runs"], json!([run.id]).to_string());
    assert_eq!(commit.metadata["exec.start"], "20231114T221320.000000");
    assert_eq!(commit.metadata[&format!("run.{}.authority", run.id)], "derived");
    let head = hub.db.head(project.workspace).await.unwrap();
    assert_eq!((head.commit, head.guid), (run.commit, 42));
    hub.stop().await;
}

#[tokio::test]
async fn records_become_runs_and_what_is_wrong_in_them_a_warning() {
    let (hub, _, _, mut session) = world().await;
    let start = start(&hub, &mut session, &["python", "grid.py"]).await;
    let mut finished = succeeded(&start, Some(receipt(&hub.store, &start)));
    finished.records = vec![
        record(1, &json!({"parameters": {"C": "1"}, "summary": {"accuracy": "0.8"}, "output": ["a.pkl"]})),
        record(
            2,
            &json!({"parameters": {"C": "10"}, "summary": {"accuracy": "0.95"}, "input": ["../etc/passwd"]}),
        ),
        v1::Record { run_id: RunId(Uuid::from_u128(3)).to_bytes(), json: b"{broken".to_vec() },
    ];
    finished.changes = vec![changed("a.pkl"), changed("undeclared")];
    assert!(acked(session.finish(finished).await));

    let warnings = task(&hub, &start).await.warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let query = "filter=metric.accuracy%3E0.9&sort=metric.accuracy&order=desc";
    let runs: Page<Run> = hub.admin.get_as(&format!("/api/v1/projects/p/runs?{query}")).await;
    assert_eq!(runs.items.len(), 1);
    assert_eq!(runs.items[0].parameters["C"], "10");
    assert!(runs.items[0].inputs.is_empty(), "the path out of the workspace is gone");
    assert_eq!(hub.admin.get("/api/v1/projects/p/runs?filter=accuracy").await.0, StatusCode::BAD_REQUEST);

    let (one, two) = (RunId(Uuid::from_u128(1)), RunId(Uuid::from_u128(2)));
    let first: Run = hub.admin.get_as(&format!("/api/v1/runs/{one}")).await;
    assert!(first.conflicts.iter().any(|text| text.contains("undeclared")), "{:?}", first.conflicts);
    let compared: Comparison = hub.admin.get_as(&format!("/api/v1/runs/compare?ids={one},{two}")).await;
    assert!(compared.rows.iter().any(|row| row.name == "C" && row.differs));
    hub.stop().await;
}

#[tokio::test]
async fn provenance_leads_over_tasks_to_who_wrote_the_input() {
    let (hub, _, _, mut session) = world().await;
    let prepare = start(&hub, &mut session, &["prepare"]).await;
    let mut finished = succeeded(&prepare, Some(receipt(&hub.store, &prepare)));
    finished.records = vec![record(1, &json!({"output": ["features.csv"]}))];
    finished.changes = vec![changed("features.csv")];
    assert!(acked(session.finish(finished).await));
    let train = start(&hub, &mut session, &["train"]).await;
    let mut finished = succeeded(&train, Some(receipt(&hub.store, &train)));
    finished.records = vec![
        record(2, &json!({"input": ["features.csv"], "output": ["mid.bin"]})),
        record(3, &json!({"input": ["mid.bin"]})),
    ];
    finished.changes = vec![changed("mid.bin")];
    assert!(acked(session.finish(finished).await));

    let [first, second, third] = [1, 2, 3].map(|n| RunId(Uuid::from_u128(n)));
    let run: Run = hub.admin.get_as(&format!("/api/v1/runs/{second}")).await;
    assert_eq!(run.inputs[0].written_by, Some(first));
    let graph: Provenance = hub.admin.get_as(&format!("/api/v1/runs/{third}/provenance")).await;
    let runs: Vec<RunId> = graph
        .nodes
        .iter()
        .filter_map(|node| match node {
            ProvenanceNode::Run { id, .. } => Some(*id),
            ProvenanceNode::File { .. } => None,
        })
        .collect();
    assert_eq!(runs, [third, second, first]);
    hub.stop().await;
}

#[tokio::test]
async fn when_the_head_moved_the_commit_stays_on_a_branch() {
    let (hub, project, _, mut session) = world().await;
    let one = start(&hub, &mut session, &["one"]).await;
    let two = start(&hub, &mut session, &["two"]).await;
    assert_eq!(one.base, two.base);
    assert!(acked(session.finish(succeeded(&two, Some(receipt(&hub.store, &two)))).await));
    assert!(!acked(session.finish(succeeded(&one, Some(receipt(&hub.store, &one)))).await));
    let branch = task(&hub, &one).await.branch.unwrap();
    assert!(branch.starts_with("task-"), "{branch}");
    let head = hub.db.head(project.workspace).await.unwrap();
    assert_eq!(head.snapshot.to_bytes(), two.result);
    hub.stop().await;
}

#[tokio::test]
async fn a_result_is_believed_only_with_the_stores_receipt_for_it() {
    let (hub, _, runner, mut session) = world().await;
    let start = start(&hub, &mut session, &["true"]).await;
    let another_store = hub.state.issue(Role::Store, ds_domain::NodeId(Uuid::new_v4())).unwrap();
    let foreign = Ca::create().unwrap().issue(Role::Store, hub.store.peer().node).unwrap();
    let bad = [
        receipt_for(&hub.store, &start, &start.base),
        receipt(&another_store, &start),
        receipt(&foreign, &start),
        receipt(&runner.identity, &start),
        v1::SignedReceipt::default(),
    ];
    for receipt in bad {
        session.progress(task_id(&start), v1::TaskPhase::Finished).await;
        session.say(v1::from_runner::Message::Finished(succeeded(&start, Some(receipt)))).await;
        // There is no answer, and the session goes on with the next message.
        assert_eq!(session.log(task_id(&start), 0, b"").await.unwrap(), 0);
        let untouched = task(&hub, &start).await;
        assert_eq!(untouched.state, State::Running);
        assert!(untouched.detail.contains("receipt"), "{}", untouched.detail);
    }
    assert!(acked(session.finish(succeeded(&start, Some(receipt(&hub.store, &start)))).await));

    // The acknowledgement got lost: the runner still holds the task and hears it again.
    let mut session = runner.connect_holding(&hub, &[(task_id(&start), v1::TaskPhase::Finished)]).await;
    assert!(acked(session.next().await));
    hub.stop().await;
}

#[tokio::test]
async fn a_task_without_a_snapshot_ends_without_a_commit() {
    let (hub, _, _, mut session) = world().await;
    let start = start(&hub, &mut session, &["true"]).await;
    let mut finished = succeeded(&start, None);
    finished.outcome = v1::Outcome::Error.into();
    finished.exit_code = None;
    finished.error = "the pool is full: make room".into();
    assert!(!acked(session.finish(finished.clone()).await));
    assert!(!acked(session.finish(finished).await), "the same end gets the same answer");
    let ended = task(&hub, &start).await;
    assert_eq!((ended.outcome, ended.commit), (Some(Outcome::Error), None));
    assert!(ended.error.contains("make room") && ended.runs.is_empty());
    hub.stop().await;
}

#[tokio::test]
async fn a_result_whose_log_is_not_stored_is_not_taken() {
    let (hub, _, _, mut session) = world().await;
    let start = start(&hub, &mut session, &["true"]).await;
    let early = v1::TaskFinished { log_bytes: 5, ..succeeded(&start, Some(receipt(&hub.store, &start))) };
    let answer = session.finish(early).await.unwrap();
    assert!(matches!(answer, to_runner::Message::LogAck(ack) if ack.offset == 0), "it goes back to there");
    assert_eq!(task(&hub, &start).await.outcome, None);
    hub.stop().await;
}

#[tokio::test]
async fn tickets_say_what_the_task_may_move() {
    let (hub, project, runner, mut session) = world().await;
    let start = start(&hub, &mut session, &["true"]).await;
    let verifier = TicketVerifier::new(hub.state.ticket_public_key());
    for (direction, snapshot) in [(v1::Direction::Pull, &start.base), (v1::Direction::Push, &start.result)] {
        let grant = session.ticket(task_id(&start), direction).await;
        assert_eq!((grant.request_id, &grant.store), (7, &start.store));
        let (peer, store) = (runner.id.into(), hub.store.peer().node);
        let at = Presentation { peer, store, now_ms: now_ms(), remembered_since_ms: 0 };
        let grant = verifier.verify(&grant.ticket.unwrap(), &at).unwrap();
        assert_eq!((grant.volume, grant.snapshot), (project.workspace, fake_runner::snapshot(snapshot)));
    }
    session.finish(succeeded(&start, None)).await.unwrap();
    let refused = session.ticket(task_id(&start), v1::Direction::Push).await;
    assert!(refused.refusal.contains("has ended"), "{refused:?}");
    hub.stop().await;
}

#[tokio::test]
async fn runs_from_outside_point_at_the_head_and_are_recorded_once() {
    let (hub, project, _, _session) = world().await;
    let id = RunId(Uuid::new_v4());
    let body = json!({"runs": [{"id": id, "metrics": {"loss": "0.5"}}]});
    for _ in 0..2 {
        let page: Page<Run> = hub.admin.post_as("/api/v1/projects/p/runs", &body).await;
        assert_eq!((page.items[0].id, page.items[0].commit), (id, project.head));
    }
    let all: Page<Run> = hub.admin.get_as("/api/v1/projects/p/runs").await;
    assert_eq!(all.items.len(), 1);
    assert_eq!(all.items[0].authority, "remote");
    hub.project("q").await;
    assert_eq!(hub.admin.post("/api/v1/projects/q/runs", &body).await.0, StatusCode::CONFLICT);
    let outside = json!({"runs": [{"inputs": ["/etc/passwd"]}]});
    assert_eq!(hub.admin.post("/api/v1/projects/p/runs", &outside).await.0, StatusCode::BAD_REQUEST);
    hub.stop().await;
}
