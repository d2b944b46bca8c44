//! Every route of the API's own description, asked by people who must not get an answer.

use ds_db::{NewTask, dataset_place};
use ds_domain::{
    SnapshotId, TaskId,
    api::{Access, Dataset, NewRun, Page, Project, RecordRuns, Run, User},
    task::TaskSpec,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, TestHub};

/// What may be read or done without a login.
const PUBLIC: [&str; 5] =
    ["GET /healthz", "GET /readyz", "GET /metrics", "GET /api/v1/hub", "POST /api/v1/login"];

/// What any user may do besides reading, whatever their projects.
const OWN: [&str; 5] = [
    "POST /api/v1/logout",
    "POST /api/v1/keys",
    "DELETE /api/v1/keys/{key}",
    "POST /api/v1/projects",
    "POST /api/v1/datasets",
];

/// What reads where it is sent and makes something of the caller's own.
const CLONE: &str = "POST /api/v1/datasets/{dataset}/clone";

struct Route {
    method: Method,
    path: String,
}

impl Route {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn is_inside_a_project(&self) -> bool {
        let objects = ["{project}", "{dataset}", "{task}", "{run}", "{commit}", "/runs/compare"];
        objects.iter().any(|object| self.path.contains(object))
    }
}

/// A project with a task, a run and a commit in it, a dataset, and a runner.
struct World {
    hub: TestHub,
    project: Project,
    dataset: Dataset,
    task: TaskId,
    run: Run,
    routes: Vec<Route>,
}

impl World {
    async fn new() -> Self {
        let hub = TestHub::start().await;
        let project = hub.project("secret").await;
        let dataset = hub.dataset("pictures").await;
        let admin: User = hub.admin.get_as("/api/v1/whoami").await;
        let task = TaskId(Uuid::new_v4());
        let environment = [("TOKEN".to_owned(), "hush".to_owned())].into();
        let spec = TaskSpec { command: vec!["true".into()], environment, ..TaskSpec::default() };
        let new = NewTask {
            id: task,
            project: project.id,
            author: admin.id,
            spec,
            result: SnapshotId(Uuid::new_v4()),
            created_ms: 1,
        };
        hub.db.create_task(&new).await.unwrap();
        let request = RecordRuns { runs: vec![NewRun::default()] };
        let runs: Page<Run> = hub.admin.post_as("/api/v1/projects/secret/runs", &request).await;
        let (status, _) = hub.admin.post("/api/v1/runners", &json!({"name": "box"})).await;
        assert_eq!(status, StatusCode::CREATED);
        let document: Value = hub.anonymous().get_as("/api/v1/openapi.json").await;
        let routes = routes(&document);
        Self { hub, project, dataset, task, run: runs.items[0].clone(), routes }
    }

    async fn ask(&self, client: &Client, route: &Route) -> StatusCode {
        let mut path = route
            .path
            .replace("{project}", "secret")
            .replace("{dataset}", "pictures")
            .replace("{task}", &self.task.to_string())
            .replace("{run}", &self.run.id.to_string())
            .replace("{commit}", &self.run.commit.to_string())
            .replace("{runner}", "box")
            .replace("{username}", "admin")
            .replace("{key}", &Uuid::nil().to_string());
        match route.path.as_str() {
            "/api/v1/runs/compare" => path = format!("{path}?ids={0},{0}", self.run.id),
            "/api/v1/commits/{commit}/content" => path += "?path=x",
            _ => {}
        }
        let mut request = client.request(route.method.clone(), &path);
        if let Some(body) = body(&route.name()) {
            request = request.json(&body);
        }
        client.send(request).await.0
    }
}

fn routes(document: &Value) -> Vec<Route> {
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            routes.push(Route { method, path: path.clone() });
        }
    }
    assert!(routes.len() > 25, "the description lists the routes");
    routes
}

/// A body that the route takes, so that only the asker's rights decide.
fn body(route: &str) -> Option<Value> {
    Some(match route {
        "POST /api/v1/users" => json!({"username": "mallory"}),
        "POST /api/v1/runners"
        | "POST /api/v1/keys"
        | "POST /api/v1/projects"
        | "POST /api/v1/datasets"
        | CLONE => json!({"name": "mallory"}),
        "POST /api/v1/projects/{project}/tasks" => json!({"spec": {"command": ["true"]}}),
        "POST /api/v1/projects/{project}/runs" => json!({"runs": [{}]}),
        "PUT /api/v1/projects/{project}/members/{username}"
        | "PUT /api/v1/datasets/{dataset}/members/{username}" => json!({"access": "owner"}),
        "PUT /api/v1/users/{username}/password" => json!({}),
        "POST /api/v1/trees/{tree}/tickets" => json!({"peer": Uuid::nil(), "direction": "push"}),
        _ => return None,
    })
}

#[tokio::test]
async fn without_a_login_only_the_public_routes_answer() {
    let world = World::new().await;
    let anonymous = world.hub.anonymous();
    let (stranger_token, empty) = (anonymous.with_token("dss_made-up"), anonymous.with_token("dsk_"));
    for route in world.routes.iter().filter(|route| !PUBLIC.contains(&route.name().as_str())) {
        for client in [&anonymous, &stranger_token, &empty] {
            assert_eq!(world.ask(client, route).await, StatusCode::UNAUTHORIZED, "{}", route.name());
        }
    }
    world.hub.stop().await;
}

#[tokio::test]
async fn to_a_stranger_a_project_and_all_in_it_does_not_exist() {
    let world = World::new().await;
    let stranger = world.hub.user("stranger").await;
    for route in &world.routes {
        let expected = match route.name() {
            _ if route.is_inside_a_project() => StatusCode::NOT_FOUND,
            name if PUBLIC.contains(&name.as_str()) || OWN.contains(&name.as_str()) => continue,
            _ if route.method == Method::GET => continue,
            _ => StatusCode::FORBIDDEN,
        };
        assert_eq!(world.ask(&stranger, route).await, expected, "{}", route.name());
    }
    assert_eq!(stranger.get("/api/v1/users").await.0, StatusCode::FORBIDDEN);
    let projects: Page<Project> = stranger.get_as("/api/v1/projects").await;
    assert!(projects.items.is_empty());
    let datasets: Page<Dataset> = stranger.get_as("/api/v1/datasets").await;
    assert!(datasets.items.is_empty());
    world.hub.stop().await;
}

#[tokio::test]
async fn a_viewer_reads_everything_and_changes_nothing() {
    let world = World::new().await;
    let viewer = world.hub.user("viewer").await;
    world.hub.add_member(&world.project, &viewer, Access::Viewer).await;
    let user: User = viewer.get_as("/api/v1/whoami").await;
    world.hub.db.set_member(dataset_place(world.dataset.id), user.id, Access::Viewer).await.unwrap();
    for route in world.routes.iter().filter(|route| route.is_inside_a_project()) {
        let status = world.ask(&viewer, route).await;
        if route.name() == CLONE {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}: the store is away", route.name());
        } else if route.method != Method::GET {
            assert_eq!(status, StatusCode::FORBIDDEN, "{}", route.name());
        } else if route.path.ends_with("/files") || route.path.ends_with("/content") {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}: the store is away", route.name());
        } else {
            assert_eq!(status, StatusCode::OK, "{}", route.name());
        }
    }
    let task: ds_domain::api::Task = viewer.get_as(&format!("/api/v1/tasks/{}", world.task)).await;
    assert!(!task.cancelling && task.outcome.is_none());
    assert_eq!(task.spec.environment["TOKEN"], "***");
    let listed: Page<ds_domain::api::Task> = viewer.get_as("/api/v1/projects/secret/tasks").await;
    assert_eq!(listed.items[0].spec.environment["TOKEN"], "***");
    world.hub.stop().await;
}

#[tokio::test]
async fn an_editor_works_but_does_not_manage() {
    let world = World::new().await;
    let editor = world.hub.user("editor").await;
    world.hub.add_member(&world.project, &editor, Access::Editor).await;
    let member = editor.request(Method::PUT, "/api/v1/projects/secret/members/editor");
    let (status, body) = editor.send(member.json(&json!({"access": "owner"}))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["message"].as_str().unwrap().contains("an owner"), "{body}");
    let task: ds_domain::api::Task = editor.get_as(&format!("/api/v1/tasks/{}", world.task)).await;
    assert_eq!(task.spec.environment["TOKEN"], "hush");
    let path = format!("/api/v1/tasks/{}/cancel", world.task);
    assert_eq!(editor.post(&path, &json!({})).await.0, StatusCode::OK);
    world.hub.stop().await;
}

#[tokio::test]
async fn the_last_owner_stays() {
    let world = World::new().await;
    let path = "/api/v1/projects/secret/members/admin";
    assert_eq!(world.hub.admin.delete(path).await.0, StatusCode::CONFLICT);
    world.hub.stop().await;
}
