//! What goes for good: projects, users, passwords.

use ds_domain::api::{
    Access, ChangePassword, ChangedPassword, CreateKey, Member, NewRun, Page, RecordRuns, RemovedUser, Run,
    Task, Token, User,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Client, PASSWORD, TestHub};

async fn change(client: &Client, username: &str, request: &ChangePassword) -> (StatusCode, Value) {
    let path = format!("/api/v1/users/{username}/password");
    client.send(client.request(Method::PUT, &path).json(request)).await
}

async fn log_in(hub: &TestHub, username: &str, password: &str) -> Result<Client, StatusCode> {
    Client::log_in(&hub.anonymous().url, username, password).await
}

#[tokio::test]
async fn a_project_goes_with_all_in_it_once_its_tasks_are_over() {
    let hub = TestHub::start().await;
    let project = hub.project("digits").await;
    let (ann, bob) = (hub.user("ann").await, hub.user("bob").await);
    hub.add_member(&project, &ann, Access::Owner).await;
    hub.add_member(&project, &bob, Access::Editor).await;
    let request = RecordRuns { runs: vec![NewRun::default()] };
    let runs: Page<Run> = ann.post_as("/api/v1/projects/digits/runs", &request).await;
    let task: Task =
        ann.post_as("/api/v1/projects/digits/tasks", &json!({"spec": {"command": ["true"]}})).await;

    assert_eq!(bob.delete("/api/v1/projects/digits").await.0, StatusCode::FORBIDDEN);
    let (status, body) = ann.delete("/api/v1/projects/digits").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["message"].as_str().unwrap().contains(&task.id.to_string()[..8]), "{body}");
    ann.post(&format!("/api/v1/tasks/{}/cancel", task.id), &json!({})).await;

    assert_eq!(ann.delete("/api/v1/projects/digits").await.0, StatusCode::NO_CONTENT);
    for path in [
        "projects/digits".to_owned(),
        format!("tasks/{}", task.id),
        format!("runs/{}", runs.items[0].id),
        format!("commits/{}", project.head),
    ] {
        assert_eq!(hub.admin.get(&format!("/api/v1/{path}")).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ann.delete("/api/v1/projects/digits").await.0, StatusCode::NOT_FOUND);
    hub.project("digits").await;
    hub.stop().await;
}

#[tokio::test]
async fn a_removed_user_is_out_at_once_and_their_work_stays() {
    let hub = TestHub::start().await;
    let project = hub.project("digits").await;
    let ann = hub.user("ann").await;
    hub.add_member(&project, &ann, Access::Owner).await;
    let admin: User = hub.admin.get_as("/api/v1/whoami").await;
    hub.db.remove_member(project.id, admin.id).await.unwrap();
    let key: Token = ann.post_as("/api/v1/keys", &CreateKey { name: "ci".into() }).await;
    let task: Task =
        ann.post_as("/api/v1/projects/digits/tasks", &json!({"spec": {"command": ["true"]}})).await;

    assert_eq!(ann.delete("/api/v1/users/admin").await.0, StatusCode::FORBIDDEN);
    let (status, body) = hub.admin.delete("/api/v1/users/admin").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    let (status, body) = hub.admin.delete("/api/v1/users/ann").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let removed: RemovedUser = serde_json::from_value(body).unwrap();
    assert_eq!(removed.inherited, ["digits"]);

    for client in [&ann, &ann.with_token(&key.token)] {
        assert_eq!(client.get("/api/v1/whoami").await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(log_in(&hub, "ann", PASSWORD).await.err(), Some(StatusCode::UNAUTHORIZED));
    let shown: Task = hub.admin.get_as(&format!("/api/v1/tasks/{}", task.id)).await;
    assert_eq!(shown.author, "ann");
    let members: Page<Member> = hub.admin.get_as("/api/v1/projects/digits/members").await;
    assert_eq!(members.items.len(), 1);
    assert_eq!((members.items[0].username.as_str(), members.items[0].access), ("admin", Access::Owner));
    assert_eq!(hub.admin.delete("/api/v1/users/ann").await.0, StatusCode::NOT_FOUND);
    let (status, _) = hub.admin.post("/api/v1/users", &json!({"username": "ann"})).await;
    assert_eq!(status, StatusCode::CONFLICT, "nobody else gets the name");
    hub.stop().await;
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it_or_by_an_admin() {
    let hub = TestHub::start().await;
    let ann = hub.user("ann").await;
    hub.user_named("bob").await;
    let new = |current: Option<&str>, password: &str| ChangePassword {
        current: current.map(str::to_owned),
        password: Some(password.to_owned()),
    };
    for current in [None, Some("a wrong one")] {
        assert_eq!(change(&ann, "ann", &new(current, "battery staple")).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(change(&ann, "bob", &new(None, "battery staple")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(change(&ann, "ann", &new(Some(PASSWORD), "short")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(change(&ann, "ann", &new(Some(PASSWORD), "battery staple")).await.0, StatusCode::OK);
    assert_eq!(ann.get("/api/v1/whoami").await.0, StatusCode::UNAUTHORIZED, "sessions end");
    assert!(log_in(&hub, "ann", "battery staple").await.is_ok());

    let (status, body) = change(&hub.admin, "ann", &ChangePassword::default()).await;
    assert_eq!(status, StatusCode::OK);
    let changed: ChangedPassword = serde_json::from_value(body).unwrap();
    assert!(log_in(&hub, "ann", &changed.password.unwrap()).await.is_ok());
    assert_eq!(change(&hub.admin, "nobody", &ChangePassword::default()).await.0, StatusCode::NOT_FOUND);
    hub.stop().await;
}
