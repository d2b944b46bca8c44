//! Inputs of other projects: resolved for whom may see them, walked back across projects, hidden from the others;
//! and where what was declared and what happened differ, as the API shows it.

use ds_domain::{
    RunId,
    api::{Access, Page, Project, Provenance, ProvenanceNode, Run, Task, User},
};
use ds_proto::v1;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    fake_runner::{FakeRunner, FakeSession, receipt, succeeded},
    recording::{acked, changed, record},
    support::{Client, TestHub},
};

/// Two projects: Ann is an editor of both, Bob of `p` alone.
struct World {
    hub: TestHub,
    p: Project,
    q: Project,
    ann: Client,
    bob: Client,
    session: FakeSession,
}

impl World {
    async fn new() -> Self {
        let hub = TestHub::start().await;
        let (p, q) = (hub.project("p").await, hub.project("q").await);
        let (ann, bob) = (hub.user("ann").await, hub.user("bob").await);
        for (project, client) in [(&p, &ann), (&q, &ann), (&p, &bob)] {
            hub.add_member(project, client, Access::Editor).await;
        }
        let session = FakeRunner::new(&hub, "box").await.connect(&hub).await;
        Self { hub, p, q, ann, bob, session }
    }

    /// A task of `who` that made these changes and, if there is a record, recorded run `id`. Returns its one run.
    async fn ran(
        &mut self,
        (who, project): (&Client, &str),
        changes: Vec<v1::FileChange>,
        published: Option<(u128, Value)>,
    ) -> Run {
        let body = json!({"spec": {"command": ["work", "in", project]}});
        let task: Task = who.post_as(&format!("/api/v1/projects/{project}/tasks"), &body).await;
        let start = self.session.started().await;
        self.finish(&start, changes, published).await;
        let runs: Page<Run> = self.hub.admin.get_as(&format!("/api/v1/projects/{project}/runs")).await;
        runs.items.into_iter().find(|run| run.task == Some(task.id)).unwrap()
    }

    async fn finish(
        &mut self,
        start: &v1::StartTask,
        changes: Vec<v1::FileChange>,
        published: Option<(u128, Value)>,
    ) {
        let mut finished = succeeded(start, Some(receipt(&self.hub.store, start)));
        finished.changes = changes;
        finished.records = published.iter().map(|(id, json)| record(*id, json)).collect();
        assert!(acked(self.session.finish(finished).await));
    }

    /// A run that `who` records over the API with this input.
    async fn reads(&self, who: &Client, input: &str) -> Run {
        let body = json!({"runs": [{"inputs": [input]}]});
        let page: Page<Run> = who.post_as("/api/v1/projects/p/runs", &body).await;
        let [run] = <[Run; 1]>::try_from(page.items).unwrap();
        assert_eq!(run.inputs.len(), 1, "it stays recorded");
        run
    }
}

fn id(n: u128) -> RunId {
    RunId(Uuid::from_u128(n))
}

fn removed(path: &str) -> v1::FileChange {
    v1::FileChange { change: v1::Change::Removed.into(), ..changed(path) }
}

fn unresolved(input: &str) -> String {
    format!("{input}: declared as an input, but the run's author can see no such file, commit or project")
}

/// The runs and files in their order: `id@project` and `project:path`.
fn nodes(graph: &Provenance) -> Vec<String> {
    let name = |node: &ProvenanceNode| match node {
        ProvenanceNode::Run { id, project, .. } => format!("{}@{project}", id.0.as_u128()),
        ProvenanceNode::File { project, path, .. } => format!("{project}:{path}"),
    };
    graph.nodes.iter().map(name).collect()
}

/// Run 1 in `p` writes what run 2 in `q` reads, whose result run 3 in `p` reads. Returns run 3.
async fn chain(world: &mut World) -> Run {
    let ann = world.ann.clone();
    world.ran((&ann, "p"), vec![changed("raw.csv")], Some((1, json!({"output": ["raw.csv"]})))).await;
    let records =
        json!({"input": ["ds://p/raw.csv"], "output": ["features.csv"], "description": "secret plan"});
    let changes = vec![changed("features.csv"), changed("undeclared")];
    let second = world.ran((&ann, "q"), changes, Some((2, records))).await;
    // With the commit, and as the original client's `relpath` leaves it.
    let input = format!("ds:/q/features.csv@{}", &second.commit.to_string()[..8]);
    let records = json!({"input": ["raw.csv", input], "output": ["model.pkl"]});
    world.ran((&ann, "p"), vec![changed("model.pkl")], Some((3, records))).await
}

#[tokio::test]
async fn provenance_leads_across_projects() {
    let mut world = World::new().await;
    let third = chain(&mut world).await;
    assert_eq!(third.conflicts, [""; 0]);
    let foreign = &third.inputs[1];
    assert_eq!((foreign.path.as_str(), foreign.written_by), ("ds://q/features.csv", Some(id(2))));
    let again = world.reads(&world.ann, &format!("{}@{}", foreign.path, foreign.commit.unwrap())).await;
    assert_eq!(&again.inputs[0], foreign, "path and commit together are a reference again");

    for reader in [&world.ann, &world.hub.admin] {
        let graph: Provenance = reader.get_as(&format!("/api/v1/runs/{}/provenance", id(3))).await;
        let all = ["3@p", "p:raw.csv", "q:features.csv", "p:model.pkl", "1@p", "2@q"];
        assert_eq!(nodes(&graph), all, "run 1's file is one node, whoever read it");
        let volumes: Vec<_> = graph.nodes[1..4]
            .iter()
            .map(|node| match node {
                ProvenanceNode::File { volume, .. } => *volume,
                ProvenanceNode::Run { .. } => panic!("{node:?}"),
            })
            .collect();
        assert_eq!(volumes, [world.p.workspace, world.q.workspace, world.p.workspace]);
        assert!(graph.edges.iter().any(|edge| (edge.from, edge.to) == (5, 1)), "{:?}", graph.edges);
        assert_eq!(graph.conflicts, [format!("run {}: undeclared: changed, but no run declared it", id(2))]);
    }
    world.hub.stop().await;
}

#[tokio::test]
async fn of_a_project_that_the_reader_may_not_see_there_is_the_run_alone() {
    let mut world = World::new().await;
    let third = chain(&mut world).await;
    let (status, body) = world.bob.get(&format!("/api/v1/runs/{}/provenance", id(3))).await;
    assert_eq!(status, StatusCode::OK);
    for secret in ["secret plan", "work in q", "undeclared"] {
        assert!(!body.to_string().contains(secret), "{secret}: {body}");
    }
    let graph: Provenance = serde_json::from_value(body).unwrap();
    assert_eq!(nodes(&graph), ["3@p", "p:raw.csv", "q:features.csv", "p:model.pkl", "1@p", "2@"]);
    assert!(graph.edges.iter().all(|edge| edge.from != 5), "the walk ends there: {:?}", graph.edges);
    assert_eq!(world.bob.get(&format!("/api/v1/runs/{}/provenance", id(2))).await.0, StatusCode::NOT_FOUND);
    let seen: Run = world.bob.get_as(&format!("/api/v1/runs/{}", id(3))).await;
    assert_eq!(seen, third, "what a run declared is part of it");
    world.hub.stop().await;
}

#[tokio::test]
async fn who_may_not_see_a_project_does_not_learn_whether_it_exists() {
    let mut world = World::new().await;
    chain(&mut world).await;
    let bob = world.bob.clone();
    let commit = world.ann.get_as::<Project>("/api/v1/projects/q").await.head;
    let with_commit = format!("ds://q/features.csv@{commit}");
    for input in ["ds://q/features.csv", "ds://nowhere/features.csv", "ds://q/missing", &with_commit] {
        let run = world.reads(&bob, input).await;
        assert_eq!((run.inputs[0].path.as_str(), run.inputs[0].commit), (input, None));
        assert_eq!(run.inputs[0].written_by, None);
        assert_eq!(run.conflicts, [unresolved(input)]);
    }
    let records = json!({"input": ["ds://q/features.csv"]});
    let of_a_task = world.ran((&bob, "p"), Vec::new(), Some((4, records))).await;
    assert_eq!(of_a_task.inputs[0].commit, None);
    assert_eq!(of_a_task.conflicts, [unresolved("ds://q/features.csv")]);
    let graph: Provenance = bob.get_as(&format!("/api/v1/runs/{}/provenance", id(4))).await;
    assert_eq!(nodes(&graph), ["4@p", "p:ds://q/features.csv"]);

    // The same text is resolved for who may see the project.
    let run = world.reads(&world.ann, "ds://q/features.csv").await;
    assert_eq!((run.inputs[0].written_by, run.conflicts.len()), (Some(id(2)), 0));
    world.hub.stop().await;
}

#[tokio::test]
async fn a_reference_is_the_newest_version_or_the_one_that_a_commit_had() {
    let mut world = World::new().await;
    let ann = world.ann.clone();
    let first = world.ran((&ann, "q"), vec![changed("a@50%.csv"), changed("dir/x")], None).await;
    let second = world.ran((&ann, "q"), vec![changed("b")], None).await;
    let third = world.ran((&ann, "q"), vec![removed("a@50%.csv")], None).await;
    let at = |path: &str, commit: &dyn ToString| format!("ds://q/{path}@{}", commit.to_string());
    for (input, made_in) in [
        ("ds://q/b".into(), Some(&second)),
        ("ds://q/dir".into(), Some(&first)),
        (at("a%4050%25.csv", &first.commit), Some(&first)),
        (at("a%4050%25.csv", &second.commit), Some(&first)),
        (at("b", &first.commit), None),
        (at("a%4050%25.csv", &third.commit), None),
        ("ds://q/a%4050%25.csv".into(), None),
        (at("b", &Uuid::from_u128(0xdead)), None),
        // A commit of another project, though Ann may see both.
        (at("b", &world.p.head), None),
    ] {
        let run = world.reads(&ann, &input).await;
        let found = run.inputs[0].commit.zip(run.inputs[0].written_by);
        assert_eq!(found, made_in.map(|run| (run.commit, run.id)), "{input}");
        let told = if made_in.is_some() { Vec::new() } else { vec![unresolved(&input)] };
        assert_eq!(run.conflicts, told, "{input}");
    }
    let body = json!({"runs": [{"inputs": ["ds://q/../p/x"]}]});
    let (status, refused) = ann.post("/api/v1/projects/p/runs", &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains(".."), "{refused}");
    world.hub.stop().await;
}

#[tokio::test]
async fn a_result_counts_though_its_author_was_removed_meanwhile() {
    let mut world = World::new().await;
    let ann = world.ann.clone();
    world.ran((&ann, "q"), vec![changed("b")], None).await;
    let body = json!({"spec": {"command": ["true"]}});
    let _: Task = ann.post_as("/api/v1/projects/p/tasks", &body).await;
    let start = world.session.started().await;
    let [who, admin]: [User; 2] =
        [ann.get_as("/api/v1/whoami").await, world.hub.admin.get_as("/api/v1/whoami").await];
    world.hub.db.remove_user(who.id, admin.id, 1).await.unwrap();
    world.finish(&start, Vec::new(), Some((5, json!({"input": ["ds://q/b"]})))).await;
    let run: Run = world.hub.admin.get_as(&format!("/api/v1/runs/{}", id(5))).await;
    assert_eq!(run.conflicts, [unresolved("ds://q/b")]);
    world.hub.stop().await;
}

#[tokio::test]
async fn what_was_declared_and_did_not_happen_is_a_conflict_and_so_is_the_reverse() {
    let mut world = World::new().await;
    let ann = world.ann.clone();
    world.ran((&ann, "p"), vec![changed("model.pkl")], None).await;
    let records = json!({"output": ["model.pkl", "plots"]});
    let changes = vec![changed("plots/1.png"), changed("notes.txt")];
    let run = world.ran((&ann, "p"), changes, Some((1, records))).await;
    let expected = [
        "model.pkl: declared as an output, but did not change",
        "notes.txt: changed, but no run declared it",
    ];
    assert_eq!(run.conflicts, expected);
    let graph: Provenance = world.bob.get_as(&format!("/api/v1/runs/{}/provenance", id(1))).await;
    assert_eq!(graph.conflicts, expected.map(|text| format!("run {}: {text}", id(1))));
    assert_eq!(nodes(&graph), [format!("{}@p", 1), "p:plots".into()], "it did not write the model");
    world.hub.stop().await;
}

#[tokio::test]
async fn a_derived_run_lists_what_was_removed() {
    let mut world = World::new().await;
    let ann = world.ann.clone();
    let run = world.ran((&ann, "p"), vec![changed("new"), removed("old")], None).await;
    assert_eq!(run.authority, "derived");
    let outputs: Vec<_> = run.outputs.iter().map(|file| (file.path.as_str(), file.commit)).collect();
    assert_eq!(outputs, [("new", Some(run.commit)), ("old", None)]);
    world.hub.stop().await;
}
