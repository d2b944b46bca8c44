//! A real runner, store, pool and Docker around a hub that only remembers what it is told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    process::Command,
    sync::{Arc, Mutex},
};

use ds_domain::{NodeId, SnapshotId, TaskId, VolumeId};
use ds_link::{Ca, Endpoint, RegistrationToken, Role};
use ds_proto::{
    PROTOCOL,
    v1::{
        self, FromRunner, ToRunner, from_runner,
        nodes_server::{Nodes, NodesServer},
        to_runner,
    },
};
use ds_runner::{Runner, RunnerConfig};
use ds_transfer::{Store, StoreClient, StoreConfig, ticket::TicketSigner};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Server, ServerTlsConfig, server::TcpIncoming},
};
use uuid::Uuid;

use crate::image;

/// What the runner told the hub.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    pub(crate) hellos: Vec<v1::Hello>,
    pub(crate) progress: HashMap<TaskId, v1::TaskProgress>,
    pub(crate) logs: HashMap<TaskId, Vec<u8>>,
    pub(crate) finished: HashMap<TaskId, v1::TaskFinished>,
    pub(crate) released: HashSet<TaskId>,
}

type Outgoing = mpsc::Sender<Result<ToRunner, Status>>;

struct FakeHub {
    ca: Ca,
    signer: TicketSigner,
    runner: NodeId,
    store: NodeId,
    client: StoreClient,
    volume: VolumeId,
    tasks: Mutex<HashMap<TaskId, v1::StartTask>>,
    session: Mutex<Option<(Outgoing, CancellationToken)>>,
    told: watch::Sender<Told>,
}

/// All of it.
pub(crate) struct World {
    hub: Arc<FakeHub>,
    pub(crate) first: SnapshotId,
    config: RunnerConfig,
    runner: Option<(JoinHandle<()>, CancellationToken)>,
    stop: CancellationToken,
    pool: String,
    /// Last, since the pool lies in it.
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        image::make();
        let dir = tempfile::tempdir().unwrap();
        let pool = format!("dsrunner{}", &Uuid::new_v4().simple().to_string()[..8]);
        ds_zfs::create_file_pool(&pool, &dir.path().join("pool"), 256 << 20).await.unwrap();
        let stop = CancellationToken::new();
        let (ca, signer) = (Ca::create().unwrap(), TicketSigner::create().unwrap());
        let id = || NodeId(Uuid::new_v4());

        let (store, hub) = (ca.issue(Role::Store, id()).unwrap(), ca.issue(Role::Hub, id()).unwrap());
        let store_node = store.peer().node;
        let config = StoreConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            root: format!("{pool}/store"),
            state_dir: dir.path().join("store"),
            identity: store,
            ticket_public_key: signer.public_key(),
        };
        let store = Store::build(config).await.unwrap();
        let store_address = store.local_addr().unwrap();
        tokio::spawn(store.run(stop.clone()));
        let client = StoreClient::new(Endpoint::client(&hub).unwrap(), store_address, store_node);
        client.hello(now_ms()).await.unwrap();
        let (volume, first) = (VolumeId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
        client.create_volume(volume, first).await.unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let token = RegistrationToken::generate(&address, ca.fingerprint()).unwrap().to_string();
        let tls = ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(hub.chain_pem(), hub.key_pem()))
            .client_ca_root(Certificate::from_pem(hub.ca_pem()))
            .client_auth_optional(true);
        let hub = Arc::new(FakeHub {
            ca,
            signer,
            runner: id(),
            store: store_node,
            client,
            volume,
            tasks: Mutex::default(),
            session: Mutex::default(),
            told: watch::Sender::new(Told::default()),
        });
        let server = Server::builder().tls_config(tls).unwrap().add_service(NodesServer::from_arc(Arc::clone(&hub)));
        let stopped = stop.clone();
        tokio::spawn(async move {
            server.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped.cancelled()).await.unwrap();
        });

        // Only the port: the runner has to find out that the store is where the hub is.
        let store_port = store_address.port();
        let labels = BTreeMap::from([("store-port".to_owned(), store_port.to_string())]);
        let config = RunnerConfig {
            state_dir: dir.path().join("runner"),
            token: Some(token),
            root: format!("{pool}/runner"),
            mount_dir: dir.path().join("mnt"),
            slots: 2,
            labels,
            docker_host: None,
        };
        let mut world = Self { hub, first, config, runner: None, stop, pool, _dir: dir };
        world.start_runner().await;
        world
    }

    /// Starts the runner, again if need be, and waits until the hub hears of it.
    pub(crate) async fn start_runner(&mut self) {
        let before = self.told().hellos.len();
        let shutdown = CancellationToken::new();
        let runner = Runner::build(self.config.clone()).await.unwrap();
        assert_eq!((runner.id(), runner.name()), (self.hub.runner, "tester"));
        // Only the first start needs a token.
        self.config.token = None;
        let stopped = shutdown.clone();
        let running = tokio::spawn(async move { runner.run(stopped).await.unwrap() });
        self.runner = Some((running, shutdown));
        self.until(|told| told.hellos.len() > before).await;
    }

    /// Stops the runner as SIGTERM does.
    pub(crate) async fn stop_runner(&mut self) {
        let (running, shutdown) = self.runner.take().unwrap();
        shutdown.cancel();
        running.await.unwrap();
    }

    /// A task on `base`, not started.
    pub(crate) fn task(&self, base: SnapshotId, script: &str) -> v1::StartTask {
        let id = || Uuid::new_v4().as_bytes().to_vec();
        v1::StartTask {
            task_id: id(),
            volume: self.hub.volume.to_bytes(),
            base: base.to_bytes(),
            result: id(),
            image: image::IMAGE.into(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            project_name: "digits".into(),
            store: Some(v1::StoreAddress {
                node_id: self.hub.store.to_bytes(),
                address: format!("0.0.0.0:{}", self.config.labels["store-port"]),
            }),
            ..v1::StartTask::default()
        }
    }

    pub(crate) async fn start(&self, start: v1::StartTask) -> TaskId {
        let task = TaskId::from_bytes(&start.task_id).unwrap();
        self.hub.tasks.lock().unwrap().insert(task, start.clone());
        self.say(to_runner::Message::Start(start)).await;
        task
    }

    pub(crate) async fn say(&self, message: to_runner::Message) {
        let session = self.hub.session.lock().unwrap().clone();
        let (outgoing, _) = session.expect("the runner is connected");
        outgoing.send(Ok(ToRunner { message: Some(message) })).await.unwrap();
    }

    /// Breaks the session, and waits for the next.
    pub(crate) async fn reconnect(&self) {
        let before = self.told().hellos.len();
        let session = self.hub.session.lock().unwrap().take();
        session.unwrap().1.cancel();
        self.until(|told| told.hellos.len() > before).await;
    }

    pub(crate) fn told(&self) -> Told {
        self.hub.told.borrow().clone()
    }

    pub(crate) async fn until(&self, reached: impl FnMut(&Told) -> bool) -> Told {
        self.hub.told.subscribe().wait_for(reached).await.unwrap().clone()
    }

    pub(crate) async fn finished(&self, task: TaskId) -> v1::TaskFinished {
        self.until(|told| told.finished.contains_key(&task)).await.finished[&task].clone()
    }

    /// Acknowledges a result whose snapshot is the new head, and waits until the runner has let go of the task.
    pub(crate) async fn acknowledge(&self, task: TaskId, head: SnapshotId) {
        self.hub.client.advance(self.hub.volume, head).await.unwrap();
        self.say(to_runner::Message::FinishAck(v1::FinishAck { task_id: task.to_bytes(), advanced: true })).await;
        self.until(|told| told.released.contains(&task)).await;
    }

    pub(crate) async fn log_of(&self, task: TaskId, wanted: &str) {
        self.until(|told| told.logs.get(&task).is_some_and(|log| log.ends_with(wanted.as_bytes()))).await;
    }

    pub(crate) fn receipt(&self, finished: &v1::TaskFinished) -> v1::Receipt {
        let signed = finished.receipt.as_ref().expect("a receipt");
        let (store, receipt) = ds_transfer::receipt::verify(self.hub.ca.certificate_pem(), signed).unwrap();
        assert_eq!(store, self.hub.store);
        receipt
    }

    /// Whether anything of the task is left on this machine.
    pub(crate) fn traces(&self, task: TaskId) -> Vec<String> {
        let name = format!("ds-{task}");
        let containers = output("docker", &["ps", "--all", "--quiet", "--filter", &format!("name={name}")]);
        let clones = output("zfs", &["list", "-H", "-o", "name", "-r", &self.pool]);
        let clones = clones.lines().filter(|line| line.contains(&task.to_hex())).map(str::to_owned);
        let journal: PathBuf = self.config.state_dir.join("tasks").join(task.to_string());
        let journal = journal.exists().then(|| journal.display().to_string());
        containers.lines().map(str::to_owned).chain(clones).chain(journal).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((running, _)) = self.runner.take() {
            running.abort();
        }
        self.stop.cancel();
        for task in self.hub.tasks.lock().unwrap().keys() {
            Command::new("docker").args(["rm", "--force", &format!("ds-{task}")]).output().unwrap();
        }
        Command::new("zpool").args(["destroy", "-f", &self.pool]).output().unwrap();
    }
}

/// Runs a shell line in a task's container.
pub(crate) fn inside(task: TaskId, script: &str) {
    output("docker", &["exec", &format!("ds-{task}"), "sh", "-c", script]);
}

pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tonic::async_trait]
impl Nodes for FakeHub {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let csr = request.into_inner().csr_pem;
        Ok(Response::new(v1::RegisterResponse {
            node_id: self.runner.to_bytes(),
            name: "tester".into(),
            certificate_pem: self.ca.sign_csr(&csr, Role::Runner, self.runner).unwrap(),
            ca_pem: self.ca.certificate_pem().into(),
            ticket_public_key: self.signer.public_key().to_vec(),
            hub_version: "0".into(),
        }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<ToRunner, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<FromRunner>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        assert!(request.peer_certs().is_some_and(|chain| !chain.is_empty()), "a session needs a certificate");
        let (outgoing, messages) = mpsc::channel(64);
        let end = CancellationToken::new();
        let welcome = v1::Welcome { protocol: PROTOCOL, version: "0".into(), heartbeat_seconds: 1 };
        let welcome = ToRunner { message: Some(to_runner::Message::Welcome(welcome)) };
        outgoing.send(Ok(welcome)).await.unwrap();
        *self.session.lock().unwrap() = Some((outgoing.clone(), end.clone()));
        let listener = Listener {
            told: self.told.clone(),
            signer: TicketSigner::from_pkcs8(self.signer.pkcs8()).unwrap(),
            tasks: self.tasks.lock().unwrap().clone(),
            peers: (self.runner, self.store),
            outgoing,
        };
        tokio::spawn(end.run_until_cancelled_owned(listener.listen(request.into_inner())));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// One session's ear.
struct Listener {
    told: watch::Sender<Told>,
    signer: TicketSigner,
    tasks: HashMap<TaskId, v1::StartTask>,
    peers: (NodeId, NodeId),
    outgoing: Outgoing,
}
