//! With a real store on a pool in a file, made for the test and destroyed after it. Needs root and a running ZFS.

use std::{path::Path, process::Command};

use ds_domain::{
    CommitId, SnapshotId,
    api::{ChangeKind, Commit, Dataset, FileChange, FileEntry, Page, Project, Uploaded},
};
use ds_transfer::{Store, StoreConfig};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Client, TestHub, free_udp_port};

/// A throw-away pool of 256 MiB.
struct Pool {
    name: String,
    _dir: tempfile::TempDir,
}

impl Pool {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("dshub{}", &Uuid::new_v4().simple().to_string()[..12]);
        let file = dir.path().join("pool");
        std::fs::File::create(&file).unwrap().set_len(256 << 20).unwrap();
        zpool(&["create", "-m", "none", &name, file.to_str().unwrap()]);
        Self { name, _dir: dir }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = Command::new("zpool").args(["destroy", "-f", &self.name]).status();
    }
}

fn zpool(arguments: &[&str]) {
    let output = Command::new("zpool").args(arguments).output().expect("zpool runs: is ZFS installed?");
    assert!(output.status.success(), "zpool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A hub with its store beside it.
struct World {
    hub: TestHub,
    stop_store: CancellationToken,
    store: JoinHandle<()>,
    pool: Pool,
}

impl World {
    async fn new() -> Self {
        let pool = Pool::new();
        let hub = TestHub::start_with_store_at(free_udp_port()).await;
        let (stop_store, store) = start_store(&hub, &pool).await;
        Self { hub, stop_store, store, pool }
    }

    async fn stop_store(self) -> (TestHub, Pool) {
        self.stop_store.cancel();
        self.store.await.unwrap();
        (self.hub, self.pool)
    }

    async fn stop(self) {
        let (hub, _pool) = self.stop_store().await;
        hub.stop().await;
    }
}

async fn start_store(hub: &TestHub, pool: &Pool) -> (CancellationToken, JoinHandle<()>) {
    let config = StoreConfig {
        listen: hub.store_address,
        root: format!("{}/store", pool.name),
        state_dir: hub.dir.path().join("store"),
        identity: hub.store.clone(),
        ticket_public_key: hub.state.ticket_public_key(),
    };
    let store = Store::build(config).await.unwrap();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    (stop, tokio::spawn(async move { store.run(stopping).await }))
}

/// A tar with these files.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, Path::new(path), *content).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn upload(client: &Client, query: &str, tar: Vec<u8>) -> (StatusCode, serde_json::Value) {
    upload_to(client, &format!("projects/p/upload{query}"), tar).await
}

async fn upload_to(client: &Client, path: &str, tar: Vec<u8>) -> (StatusCode, serde_json::Value) {
    client.send(client.request(Method::POST, &format!("/api/v1/{path}")).body(tar)).await
}

async fn uploaded(client: &Client, query: &str, files: &[(&str, &[u8])]) -> Commit {
    let (status, body) = upload(client, query, tar_of(files)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    serde_json::from_value::<Uploaded>(body).unwrap().commit
}

async fn create_project(client: &Client) -> Project {
    client.post_as("/api/v1/projects", &json!({"name": "p", "description": "digits"})).await
}

#[tokio::test]
async fn files_go_in_by_upload_and_are_read_back_at_every_commit() {
    let world = World::new().await;
    let admin = &world.hub.admin;
    assert_eq!(admin.get("/readyz").await.0, StatusCode::OK);
    let project = create_project(admin).await;
    let big = vec![7_u8; 3 << 20];
    let first =
        uploaded(admin, "?path=data&message=first%20data", &[("a.csv", b"1,2\n"), ("big.bin", &big)]).await;
    assert_eq!((first.message.as_str(), first.parent), ("first data", Some(project.head)));
    let second = uploaded(admin, "?path=data", &[("a.csv", b"3,4\n")]).await;
    assert_eq!(second.message, "upload of 1 file");

    let changes: Page<FileChange> = admin.get_as(&format!("/api/v1/commits/{}/changes", second.id)).await;
    let expected = FileChange { path: "data/a.csv".into(), change: ChangeKind::Modified, size_bytes: 4 };
    assert_eq!(changes.items, [expected]);
    let entries: Page<FileEntry> =
        admin.get_as(&format!("/api/v1/commits/{}/files?recursive=true", second.id)).await;
    let paths: Vec<&str> = entries.items.iter().map(|entry| entry.path.as_str()).collect();
    assert!(paths.contains(&"data/a.csv") && paths.contains(&"data/big.bin"), "{paths:?}");
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let query = format!("recursive=true&limit=1&cursor={cursor}");
        let page: Page<FileEntry> =
            admin.get_as(&format!("/api/v1/commits/{}/files?{query}", second.id)).await;
        assert!(page.items.len() <= 1);
        paged.extend(page.items.into_iter().map(|entry| entry.path));
        let Some(next) = page.next else { break };
        cursor = next;
    }
    assert_eq!(paged, paths);

    let content = |commit: CommitId, path: &str| format!("/api/v1/commits/{commit}/content?path={path}");
    for (commit, expected) in [(first.id, "1,2\n"), (second.id, "3,4\n")] {
        let answer = admin.request(Method::GET, &content(commit, "data/a.csv")).send().await.unwrap();
        assert_eq!(answer.headers()["content-length"], "4");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["content-disposition"], "attachment");
        assert_eq!(answer.text().await.unwrap(), expected);
    }
    let answer = admin.request(Method::GET, &content(second.id, "data/big.bin")).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), big);
    assert_eq!(admin.get(&content(first.id, "nothing")).await.0, StatusCode::NOT_FOUND);
    assert!(admin.get(&content(first.id, "../../../etc/passwd")).await.0.is_client_error());
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_tar_changes_nothing() {
    let world = World::new().await;
    let admin = &world.hub.admin;
    let project = create_project(admin).await;
    let (status, body) = upload(admin, "", vec![0x5a; 4096]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (status, _) = upload(admin, "?path=../x", tar_of(&[])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let after: Project = admin.get_as("/api/v1/projects/p").await;
    assert_eq!(after.head, project.head);
    world.stop().await;
}

#[tokio::test]
async fn a_taken_name_leaves_no_volume_behind() {
    let world = World::new().await;
    let admin = &world.hub.admin;
    create_project(admin).await;
    let volumes = |pool: &Pool| {
        let output = Command::new("zfs")
            .args(["list", "-H", "-o", "name", "-r", &format!("{}/store/v", pool.name)])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    let before = volumes(&world.pool);
    let (status, body) = admin.post("/api/v1/projects", &json!({"name": "p"})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert_eq!(volumes(&world.pool), before);
    for name in ["", "-x", "a/b", "..", &Uuid::nil().to_string()] {
        let (status, _) = admin.post("/api/v1/projects", &json!({"name": name})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn without_the_store_files_are_unavailable_and_the_rest_works() {
    let world = World::new().await;
    let project = create_project(&world.hub.admin).await;
    let (hub, pool) = world.stop_store().await;
    let (status, body) = hub.admin.post("/api/v1/projects", &json!({"name": "q"})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["message"].as_str().unwrap().contains("store"), "{body}");
    let shown: Project = hub.admin.get_as("/api/v1/projects/p").await;
    assert_eq!(shown.id, project.id);

    let (stop, store) = start_store(&hub, &pool).await;
    while hub.admin.get("/readyz").await.0 != StatusCode::OK {}
    uploaded(&hub.admin, "", &[("a", b"1")]).await;
    stop.cancel();
    store.await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn an_upload_onto_a_head_that_moved_is_a_conflict() {
    let world = World::new().await;
    let admin = world.hub.admin.clone();
    let project = create_project(&admin).await;
    // All but the last piece is on its way, far more than the sockets between us hold: the hub is at work on
    // the old head.
    let tar = tar_of(&[("slow.bin", &vec![1; 32 << 20])]);
    let mut pieces: Vec<Vec<u8>> = tar.chunks(1 << 20).map(<[u8]>::to_vec).collect();
    let last = pieces.pop().unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Vec<u8>>>(1);
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let request = admin.request(Method::POST, "/api/v1/projects/p/upload").body(body);
    let client = admin.clone();
    let slow = tokio::spawn(async move { client.send(request).await });
    for piece in pieces {
        sender.send(Ok(piece)).await.unwrap();
    }
    let moved = move_head(&world.hub, &project).await;
    sender.send(Ok(last)).await.unwrap();
    drop(sender);
    let (status, body) = slow.await.unwrap();
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body["message"].as_str().unwrap().contains("send it again"), "{body}");
    let after: Project = admin.get_as("/api/v1/projects/p").await;
    assert_eq!(after.head, moved);
    world.stop().await;
}

/// Moves the head past the store.
async fn move_head(hub: &TestHub, project: &Project) -> CommitId {
    let head = hub.db.head(project.workspace).await.unwrap();
    let new = ds_db::NewCommit {
        id: CommitId(Uuid::new_v4()),
        volume: project.workspace,
        snapshot: SnapshotId(Uuid::new_v4()),
        guid: 1,
        parent: head.commit,
        message: "meanwhile".into(),
        author: "admin".into(),
        task: None,
        changes: vec![],
        created_ms: 2,
    };
    hub.db.import_commit(&new).await.unwrap();
    new.id
}

#[tokio::test]
async fn a_dataset_is_filled_read_cloned_and_let_go() {
    let world = World::new().await;
    let admin = &world.hub.admin;
    let made: Dataset = admin.post_as("/api/v1/datasets", &json!({"name": "images"})).await;
    create_project(admin).await;
    for taken in ["p", "images"] {
        assert_eq!(admin.post("/api/v1/datasets", &json!({"name": taken})).await.0, StatusCode::CONFLICT);
    }
    let push = async |name: &str, content: &[u8]| {
        let path = format!("datasets/{name}/upload?message=pictures");
        let (status, body) = upload_to(admin, &path, tar_of(&[("a.png", content)])).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        serde_json::from_value::<Uploaded>(body).unwrap().commit
    };
    let first = push("images", b"one").await;
    assert_eq!((first.parent, first.volume, first.message.as_str()), (Some(made.head), made.id, "pictures"));
    let second = push("images", b"two").await;

    let request = json!({"name": "then", "commit": first.id.to_string()[..8]});
    let then: Dataset = admin.post_as("/api/v1/datasets/images/clone", &request).await;
    let now: Dataset = admin.post_as("/api/v1/datasets/images/clone", &json!({"name": "now"})).await;
    assert_eq!((then.cloned_from, now.cloned_from), (Some(first.id), Some(second.id)));
    let third = push("then", b"three").await;
    assert_eq!(third.parent, Some(then.head));
    let read = async |commit: CommitId| {
        let path = format!("/api/v1/commits/{commit}/content?path=a.png");
        admin.request(Method::GET, &path).send().await.unwrap().text().await.unwrap()
    };
    for (commit, content) in [(then.head, "one"), (now.head, "two"), (third.id, "three"), (second.id, "two")]
    {
        assert_eq!(read(commit).await, content);
    }
    let other = json!({"name": "wrong", "commit": third.id});
    assert_eq!(admin.post("/api/v1/datasets/images/clone", &other).await.0, StatusCode::BAD_REQUEST);

    let (status, body) = admin.delete("/api/v1/datasets/images").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body["message"].as_str().unwrap().contains("now, then"), "{body}");
    for name in ["now", "then", "images"] {
        assert_eq!(admin.delete(&format!("/api/v1/datasets/{name}")).await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(admin.get(&format!("/api/v1/commits/{}", first.id)).await.0, StatusCode::NOT_FOUND);
    world.stop().await;
}
