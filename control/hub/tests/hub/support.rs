//! A hub on free ports in a temporary folder, and a client for it. No store runs unless a test starts one.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
};

use ds_db::{Db, NewDataset, NewProject};
use ds_domain::{
    CommitId, NodeId, ProjectId, SnapshotId, VolumeId,
    api::{Access, CreateUser, Dataset, LoginRequest, Project, Token, User},
};
use ds_hub::{Hub, HubConfig, HubState, StoreTarget, Unknown};
use ds_link::{Identity, Role};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct TestHub {
    pub(crate) dir: TempDir,
    pub(crate) db: Db,
    pub(crate) state: HubState,
    pub(crate) store: Identity,
    pub(crate) store_address: SocketAddr,
    pub(crate) nodes: SocketAddr,
    pub(crate) admin: Client,
    url: String,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ds_hub::Error>>,
}

impl TestHub {
    /// A hub whose store is away.
    pub(crate) async fn start() -> Self {
        Self::start_with_store_at(free_udp_port()).await
    }

    pub(crate) async fn start_with_store_at(store_address: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = HubState::open(&dir.path().join("hub")).unwrap();
        let store = state.issue(Role::Store, NodeId(Uuid::new_v4())).unwrap();
        Self::run_in(dir, state, store, store_address).await
    }

    async fn run_in(dir: TempDir, state: HubState, store: Identity, store_address: SocketAddr) -> Self {
        let config = config(dir.path(), store.peer().node, store_address);
        let db_url = config.database_url.clone();
        let hub = Hub::build(config).await.unwrap();
        let (url, nodes) = (format!("http://{}", hub.http_addr()), hub.nodes_addr());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(hub.run(shutdown.clone()));
        let db = Db::connect(&db_url).await.unwrap();
        let password = std::fs::read_to_string(dir.path().join("hub/admin-password")).unwrap();
        let admin = Client::log_in(&url, "admin", password.trim()).await.unwrap();
        Self { dir, db, state, store, store_address, nodes, admin, url, shutdown, running }
    }

    /// Stops the hub and starts another one on the same state; ports change.
    pub(crate) async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.db.close().await;
        Self::run_in(self.dir, self.state, self.store, self.store_address).await
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }

    pub(crate) fn anonymous(&self) -> Client {
        Client { http: reqwest::Client::new(), url: self.url.clone(), auth: Auth::Nobody }
    }

    /// Makes a user and logs in as them.
    pub(crate) async fn user(&self, username: &str) -> Client {
        self.user_named(username).await;
        Client::log_in(&self.url, username, PASSWORD).await.unwrap()
    }

    /// Makes a user.
    pub(crate) async fn user_named(&self, username: &str) {
        let request = CreateUser { username: username.into(), password: Some(PASSWORD.into()), admin: false };
        let (status, _) = self.admin.post("/api/v1/users", &request).await;
        assert_eq!(status, StatusCode::CREATED);
    }

    /// A project made past the store, for tests of what needs no files.
    pub(crate) async fn project(&self, name: &str) -> Project {
        let owner: User = self.admin.get_as("/api/v1/whoami").await;
        let new = NewProject {
            id: ProjectId(Uuid::new_v4()),
            name: name.into(),
            description: String::new(),
            owner: owner.id,
            workspace: VolumeId(Uuid::new_v4()),
            commit: CommitId(Uuid::new_v4()),
            snapshot: SnapshotId(Uuid::new_v4()),
            guid: 1,
            created_ms: 1,
        };
        self.db.create_project(&new).await.unwrap();
        self.admin.get_as(&format!("/api/v1/projects/{name}")).await
    }

    /// A dataset made past the store.
    pub(crate) async fn dataset(&self, name: &str) -> Dataset {
        let owner: User = self.admin.get_as("/api/v1/whoami").await;
        let new = NewDataset {
            volume: VolumeId(Uuid::new_v4()),
            name: name.into(),
            description: String::new(),
            owner: owner.id,
            commit: CommitId(Uuid::new_v4()),
            snapshot: SnapshotId(Uuid::new_v4()),
            guid: 1,
            cloned_from: None,
            created_ms: 1,
        };
        self.db.create_dataset(&new).await.unwrap();
        self.admin.get_as(&format!("/api/v1/datasets/{name}")).await
    }

    pub(crate) async fn add_member(&self, project: &Project, client: &Client, access: Access) {
        let user: User = client.get_as("/api/v1/whoami").await;
        self.db.set_member(project.id, user.id, access).await.unwrap();
    }
}

fn config(dir: &Path, store: NodeId, store_address: SocketAddr) -> HubConfig {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    HubConfig {
        http: any_port,
        nodes: any_port,
        database_url: format!("sqlite:{}", dir.join("hub.db").display()),
        state_dir: dir.join("hub"),
        advertise: None,
        store: StoreTarget { node: store, address: store_address },
        default_image: "test-image".into(),
        unknown: Unknown::Drop,
    }
}

/// A port on which nobody answers, now.
pub(crate) fn free_udp_port() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

#[derive(Clone)]
enum Auth {
    Nobody,
    Bearer(String),
}

/// Speaks to a hub as somebody.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) url: String,
    auth: Auth,
}

impl Client {
    pub(crate) async fn log_in(url: &str, username: &str, password: &str) -> Result<Self, StatusCode> {
        Self::log_in_from(Ipv4Addr::LOCALHOST.into(), url, username, password).await
    }

    pub(crate) async fn log_in_from(
        address: IpAddr,
        url: &str,
        username: &str,
        password: &str,
    ) -> Result<Self, StatusCode> {
        let http = reqwest::Client::builder().local_address(address).build().unwrap();
        let client = Self { http, url: url.into(), auth: Auth::Nobody };
        let request = LoginRequest { username: username.into(), password: password.into() };
        let (status, body) = client.post("/api/v1/login", &request).await;
        if status != StatusCode::OK {
            return Err(status);
        }
        let token: Token = serde_json::from_value(body).unwrap();
        Ok(client.with_token(&token.token))
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { auth: Auth::Bearer(token.into()), ..self.clone() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.auth {
            Auth::Nobody => request,
            Auth::Bearer(token) => request.bearer_auth(token),
        }
    }

    /// Status and JSON body (`null` if it is empty or something else).
    pub(crate) async fn send(&self, request: RequestBuilder) -> (StatusCode, Value) {
        let response = request.send().await.unwrap();
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> (StatusCode, Value) {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// The object at `path`, which has to be there.
    pub(crate) async fn get_as<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        serde_json::from_value(body).unwrap()
    }

    pub(crate) async fn post_as<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        let (status, body) = self.post(path, body).await;
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_value(body).unwrap()
    }
}
