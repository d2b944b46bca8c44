//! A real runner, store, pool and Docker around a hub that only remembers what it is told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use ds_domain::{NodeId, SnapshotId, TaskId, VolumeId};
use ds_link::{Ca, Endpoint, RegistrationToken, Role, Transports};
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
use ds_zfs::Volumes;
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
    /// A person removed the runner: it is told to forget everything, and then refused.
    removed: AtomicBool,
    /// Why no result can be stored.
    no_push: Mutex<Option<&'static str>>,
    /// Where the store is, if that is not what the tasks were told.
    moved: Mutex<Option<v1::StoreAddress>>,
    told: watch::Sender<Told>,
}

/// All of it.
pub(crate) struct World {
    hub: Arc<FakeHub>,
    pub(crate) first: SnapshotId,
    config: RunnerConfig,
    runner: Option<(JoinHandle<()>, CancellationToken)>,
    stop: CancellationToken,
    /// The store's and the runner's.
    pools: [String; 2],
    /// Last, since the pools lie in it.
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(None).await
    }

    /// With another Docker daemon than the machine's.
    pub(crate) async fn on(docker_host: Option<String>) -> Self {
        image::make();
        let dir = tempfile::tempdir().unwrap();
        let name = format!("dsrunner{}", &Uuid::new_v4().simple().to_string()[..8]);
        let pools = ["s", "r"].map(|node| format!("{name}{node}"));
        for (pool, megabytes) in pools.iter().zip([512, 128]) {
            ds_zfs::create_file_pool(pool, &dir.path().join(pool), megabytes << 20).await.unwrap();
        }
        let stop = CancellationToken::new();
        let (ca, signer) = (Ca::create().unwrap(), TicketSigner::create().unwrap());
        let id = || NodeId(Uuid::new_v4());

        let runner = id();
        let (store, hub) = (ca.issue(Role::Store, id()).unwrap(), ca.issue(Role::Hub, id()).unwrap());
        let store_node = store.peer().node;
        let config = StoreConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            root: format!("{}/store", pools[0]),
            state_dir: dir.path().join("store"),
            identity: store,
            ticket_public_key: signer.public_key(),
        };
        let store = Store::build(config).await.unwrap();
        let store_address = store.local_addr().unwrap();
        tokio::spawn(store.run(stop.clone()));
        let client = StoreClient::new(Endpoint::client(&hub).unwrap(), store_address, store_node);
        client.hello(now_ms(), &[runner]).await.unwrap();
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
            runner,
            store: store_node,
            client,
            volume,
            tasks: Mutex::default(),
            session: Mutex::default(),
            removed: AtomicBool::default(),
            no_push: Mutex::default(),
            moved: Mutex::default(),
            told: watch::Sender::new(Told::default()),
        });
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(NodesServer::new(Service(Arc::clone(&hub))));
        let stopped = stop.clone();
        tokio::spawn(async move {
            server
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped.cancelled())
                .await
                .unwrap();
        });

        // Only the port: the runner has to find out that the store is where the hub is.
        let store_port = store_address.port();
        let labels = BTreeMap::from([("store-port".to_owned(), store_port.to_string())]);
        let config = RunnerConfig {
            state_dir: dir.path().join("runner"),
            token: Some(token),
            root: format!("{}/runner", pools[1]),
            mount_dir: dir.path().join("mnt"),
            slots: 2,
            labels,
            docker_host,
            transports: Transports::default(),
            most_lanes: None,
        };
        let mut world = Self { hub, first, config, runner: None, stop, pools, _dir: dir };
        world.start_runner().await;
        world
    }

    /// Starts the runner, again if need be, and waits until the hub hears of it.
    pub(crate) async fn start_runner(&mut self) {
        let before = self.told().hellos.len();
        let shutdown = CancellationToken::new();
        let runner = loop {
            match Runner::build(self.config.clone()).await {
                // One that was killed lets go of its state when the last of its tasks is dropped.
                Err(ds_runner::Error::Running { .. }) => tokio::task::yield_now().await,
                built => break built.unwrap(),
            }
        };
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

    /// Drops the runner wherever it is. Only what it has written down survives, as of a process that is killed; a write that
    /// is under way still comes to its end, which that of a killed process may not.
    pub(crate) async fn kill_runner(&mut self) {
        let (running, _) = self.runner.take().unwrap();
        running.abort();
        running.await.unwrap_err();
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

    /// Starts a task again that was started before.
    pub(crate) async fn restart(&self, task: TaskId) {
        let start = self.hub.tasks.lock().unwrap()[&task].clone();
        self.say(to_runner::Message::Start(start)).await;
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
        self.say(to_runner::Message::FinishAck(v1::FinishAck { task_id: task.to_bytes(), advanced: true }))
            .await;
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

    /// Removes the runner at the hub.
    pub(crate) async fn remove(&self) {
        self.hub.removed.store(true, Ordering::Relaxed);
        self.reconnect().await;
    }

    /// No result can be stored from now on.
    pub(crate) fn refuse_results(&self, why: &'static str) {
        *self.hub.no_push.lock().unwrap() = Some(why);
    }

    /// Says where the store is only with each ticket; tasks are told a place where it is not.
    pub(crate) fn move_store(&self, start: &mut v1::StartTask) {
        let before = start.store.as_mut().unwrap();
        *self.hub.moved.lock().unwrap() = Some(before.clone());
        before.address = "127.0.0.1:1".into();
    }

    /// The runner's pool, as somebody else would open it.
    pub(crate) async fn pool(&self) -> Volumes {
        Volumes::open(&self.config.root, &self.config.mount_dir).await.unwrap()
    }

    /// Puts a file of random bytes on top of `base` at the store; gives the snapshot.
    pub(crate) async fn import(&self, base: SnapshotId, bytes: u64) -> SnapshotId {
        let dir = tempfile::tempdir().unwrap();
        output(
            "sh",
            &[
                "-c",
                &format!(
                    "head -c {bytes} /dev/urandom > {0}/f && tar -C {0} -cf {0}/tar f",
                    dir.path().display()
                ),
            ],
        );
        let archive = Bytes::from(std::fs::read(dir.path().join("tar")).unwrap());
        let snapshot = SnapshotId(Uuid::new_v4());
        let archive = tokio_stream::once(Ok(archive));
        self.hub.client.import_tar(self.hub.volume, base, snapshot, "", archive).await.unwrap();
        self.hub.client.advance(self.hub.volume, snapshot).await.unwrap();
        snapshot
    }

    /// Puts a snapshot with a file of random bytes on the runner's pool: a branch of `volume`, or a volume of its own.
    pub(crate) async fn put(&self, volume: Option<(VolumeId, SnapshotId)>, bytes: u64) -> SnapshotId {
        let pool = self.pool().await;
        let (volume, base) = if let Some(on) = volume {
            on
        } else {
            let (volume, first) = (VolumeId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
            pool.create(volume, first).await.unwrap();
            (volume, first)
        };
        let snapshot = SnapshotId(Uuid::new_v4());
        let clone = pool.editing_clone(volume, base, snapshot).await.unwrap();
        output("sh", &["-c", &format!("head -c {bytes} /dev/urandom > {}/f", clone.display())]);
        pool.commit_edit(volume, snapshot).await.unwrap();
        snapshot
    }

    pub(crate) fn volume(&self) -> VolumeId {
        self.hub.volume
    }

    /// Removes what the runner remembers of a task.
    pub(crate) fn lose_journal(&self, task: TaskId) {
        std::fs::remove_dir_all(self.config.state_dir.join("tasks").join(task.to_string())).unwrap();
    }

    /// Whether anything of the task is left on this machine.
    pub(crate) fn traces(&self, task: TaskId) -> Vec<String> {
        let name = format!("ds-{task}");
        let containers = output("docker", &["ps", "--all", "--quiet", "--filter", &format!("name={name}")]);
        let clones = output("zfs", &["list", "-H", "-o", "name", "-r", &self.pools[1]]);
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
        for pool in &self.pools {
            destroy(pool);
        }
    }
}

/// What the dropped runner and store still did on it comes to its end first.
fn destroy(pool: &str) {
    for _ in 0..100 {
        if Command::new("zpool").args(["destroy", "-f", pool]).output().unwrap().status.success() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
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

/// The hub's end of gRPC.
struct Service(Arc<FakeHub>);

#[tonic::async_trait]
impl Nodes for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let csr = request.into_inner().csr_pem;
        Ok(Response::new(v1::RegisterResponse {
            node_id: self.0.runner.to_bytes(),
            name: "tester".into(),
            certificate_pem: self.0.ca.sign_csr(&csr, Role::Runner, self.0.runner).unwrap(),
            ca_pem: self.0.ca.certificate_pem().into(),
            ticket_public_key: self.0.signer.public_key().to_vec(),
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
        answer(
            &outgoing,
            to_runner::Message::Welcome(v1::Welcome {
                protocol: PROTOCOL,
                version: "0".into(),
                heartbeat_seconds: 1,
            }),
        )
        .await;
        *self.0.session.lock().unwrap() = Some((outgoing.clone(), end.clone()));
        let (hub, incoming) = (Arc::clone(&self.0), request.into_inner());
        tokio::spawn(async move { end.run_until_cancelled(hub.listen(incoming, outgoing)).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

impl FakeHub {
    async fn listen(&self, mut incoming: Streaming<FromRunner>, outgoing: Outgoing) {
        use from_runner::Message;
        while let Ok(Some(FromRunner { message: Some(message) })) = incoming.message().await {
            let id = |bytes: &[u8]| TaskId::from_bytes(bytes).unwrap();
            match message {
                Message::Hello(hello) if self.removed.load(Ordering::Relaxed) => {
                    for report in &hello.tasks {
                        let task_id = report.task_id.clone();
                        answer(&outgoing, to_runner::Message::Forget(v1::Forget { task_id })).await;
                    }
                    self.told.send_modify(|told| told.hellos.push(hello));
                    let status = Status::permission_denied("this runner was removed: register it again");
                    outgoing.send(Err(status)).await.unwrap();
                    return;
                }
                Message::Hello(hello) => {
                    for report in &hello.tasks {
                        let stored = self.told.borrow().logs.get(&id(&report.task_id)).map_or(0, Vec::len);
                        answer(&outgoing, log_ack(report.task_id.clone(), stored)).await;
                    }
                    self.told.send_modify(|told| told.hellos.push(hello));
                }
                Message::Progress(progress) => self.told.send_modify(|told| {
                    told.progress.insert(id(&progress.task_id), progress);
                }),
                Message::Log(chunk) => {
                    let stored = self.store_log(id(&chunk.task_id), &chunk);
                    answer(&outgoing, log_ack(chunk.task_id, stored)).await;
                }
                Message::TicketRequest(request) => {
                    answer(&outgoing, to_runner::Message::Ticket(self.ticket(&request))).await;
                }
                Message::Finished(finished) => self.told.send_modify(|told| {
                    told.finished.insert(id(&finished.task_id), finished);
                }),
                Message::Released(released) => self.told.send_modify(|told| {
                    told.released.insert(id(&released.task_id));
                }),
                Message::Heartbeat(_) => {}
            }
        }
    }

    fn store_log(&self, task: TaskId, chunk: &v1::LogChunk) -> usize {
        let mut stored = 0;
        self.told.send_modify(|told| {
            let log = told.logs.entry(task).or_default();
            let offset = usize::try_from(chunk.offset).unwrap();
            assert!(offset <= log.len(), "the runner skipped bytes {} to {offset}", log.len());
            let known = (log.len() - offset).min(chunk.data.len());
            log.extend_from_slice(&chunk.data[known..]);
            stored = log.len();
        });
        stored
    }

    fn ticket(&self, request: &v1::TicketRequest) -> v1::TicketGrant {
        let request_id = request.request_id;
        if let (v1::Direction::Push, Some(refusal)) = (request.direction(), *self.no_push.lock().unwrap()) {
            return v1::TicketGrant { request_id, refusal: refusal.into(), ..v1::TicketGrant::default() };
        }
        let task = self.tasks.lock().unwrap()[&TaskId::from_bytes(&request.task_id).unwrap()].clone();
        let (snapshot, base) = match request.direction() {
            v1::Direction::Push => (task.result, task.base),
            _ => (task.base, Vec::new()),
        };
        let ticket = v1::Ticket {
            id: Uuid::new_v4().as_bytes().to_vec(),
            peer: self.runner.to_bytes(),
            store: self.store.to_bytes(),
            volume: task.volume,
            snapshot,
            base,
            direction: request.direction,
            issued_ms: now_ms(),
            expires_ms: now_ms() + 60_000,
        };
        let ticket = Some(self.signer.sign(&ticket));
        v1::TicketGrant {
            request_id,
            ticket,
            store: self.moved.lock().unwrap().clone(),
            ..v1::TicketGrant::default()
        }
    }
}

async fn answer(outgoing: &Outgoing, message: to_runner::Message) {
    // The runner may be gone.
    let _ = outgoing.send(Ok(ToRunner { message: Some(message) })).await;
}

fn log_ack(task_id: Vec<u8>, stored: usize) -> to_runner::Message {
    to_runner::Message::LogAck(v1::LogAck { task_id, offset: stored as u64 })
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
