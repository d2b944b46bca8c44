//! A scripted runner: it has a real certificate and speaks real gRPC, but executes nothing. It says what a test
//! tells it to say, so that a test can lie, repeat and disappear.

use std::collections::HashMap;

use ds_domain::{
    RunnerId, SnapshotId, TaskId,
    api::{CreateRunner, CreatedRunner},
};
use ds_link::{Identity, NodeKey, RegistrationToken};
use ds_proto::{
    PROTOCOL,
    v1::{
        self, FromRunner, Hello, LogChunk, RegisterRequest, TaskFinished, TaskProgress, TaskReleased,
        TaskReport, TicketRequest, from_runner, nodes_client::NodesClient, to_runner,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::support::TestHub;

pub(crate) struct FakeRunner {
    pub(crate) id: RunnerId,
    pub(crate) identity: Identity,
}

/// A channel to the hub's nodes, with or without a certificate.
pub(crate) async fn channel(
    hub: &TestHub,
    ca_pem: &str,
    identity: Option<&Identity>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name("hub.node.dotstream");
    if let Some(identity) = identity {
        let identity = tonic::transport::Identity::from_pem(identity.certificate_pem(), identity.key_pem());
        tls = tls.identity(identity);
    }
    Endpoint::new(format!("https://{}", hub.nodes))?.tls_config(tls)?.connect().await
}

/// A runner's one-time token.
pub(crate) async fn create(hub: &TestHub, name: &str) -> (RunnerId, RegistrationToken) {
    let created: CreatedRunner =
        hub.admin.post_as("/api/v1/runners", &CreateRunner { name: name.into() }).await;
    (created.runner.id, created.token.parse().unwrap())
}

pub(crate) fn request(token: &RegistrationToken, key: &NodeKey) -> RegisterRequest {
    RegisterRequest {
        protocol: PROTOCOL,
        version: "0.0.0-fake".into(),
        token_secret: token.secret.clone(),
        role: v1::Role::Runner.into(),
        csr_pem: key.csr_pem().unwrap(),
    }
}

/// Registers as a program would: only the token is known.
pub(crate) async fn register(
    hub: &TestHub,
    request: RegisterRequest,
) -> Result<v1::RegisterResponse, Status> {
    let ca = ds_link::fetch_ca(&hub.nodes.to_string(), &hub.state.ca().fingerprint()).await.unwrap();
    let channel = channel(hub, &ca, None).await.unwrap();
    NodesClient::new(channel).register(request).await.map(tonic::Response::into_inner)
}

impl FakeRunner {
    pub(crate) async fn new(hub: &TestHub, name: &str) -> Self {
        let (id, token) = create(hub, name).await;
        let key = NodeKey::generate().unwrap();
        let response = register(hub, request(&token, &key)).await.unwrap();
        assert_eq!(response.node_id, id.to_bytes());
        let identity = key.into_identity(&response.certificate_pem, &response.ca_pem).unwrap();
        Self { id, identity }
    }

    pub(crate) fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: "0.0.0-fake".into(),
            slots: 2,
            labels: HashMap::new(),
            machine: Some(v1::Machine { cpus: 4, memory_bytes: 8 << 30, ..v1::Machine::default() }),
            tasks: vec![],
            snapshots: vec![],
        }
    }

    pub(crate) async fn connect(&self, hub: &TestHub) -> FakeSession {
        self.connect_with(hub, Self::hello()).await.unwrap()
    }

    pub(crate) async fn connect_holding(
        &self,
        hub: &TestHub,
        tasks: &[(TaskId, v1::TaskPhase)],
    ) -> FakeSession {
        let report = |(task, phase): &(TaskId, v1::TaskPhase)| TaskReport {
            task_id: task.to_bytes(),
            phase: (*phase).into(),
            log_offset: 0,
        };
        let hello = Hello { tasks: tasks.iter().map(report).collect(), ..Self::hello() };
        self.connect_with(hub, hello).await.unwrap()
    }

    pub(crate) async fn connect_with(&self, hub: &TestHub, hello: Hello) -> Result<FakeSession, Status> {
        let ca = hub.state.ca().certificate_pem().to_owned();
        let channel = channel(hub, &ca, Some(&self.identity))
            .await
            .map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (sender, outgoing) = mpsc::channel(64);
        sender.send(message(from_runner::Message::Hello(hello))).await.unwrap();
        let mut client = NodesClient::new(channel);
        let incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut session = FakeSession { sender, incoming };
        match session.next().await? {
            to_runner::Message::Welcome(welcome) => assert_eq!(welcome.protocol, PROTOCOL),
            other => panic!("expected Welcome, got {other:?}"),
        }
        Ok(session)
    }
}

fn message(message: from_runner::Message) -> FromRunner {
    FromRunner { message: Some(message) }
}

pub(crate) struct FakeSession {
    sender: mpsc::Sender<FromRunner>,
    incoming: Streaming<v1::ToRunner>,
}

impl FakeSession {
    pub(crate) async fn say(&self, said: from_runner::Message) {
        self.sender.send(message(said)).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<to_runner::Message, Status> {
        match self.incoming.message().await? {
            Some(message) => Ok(message.message.unwrap()),
            None => Err(Status::new(Code::Cancelled, "the stream ended")),
        }
    }

    /// The start of a task, which has to be what comes next.
    pub(crate) async fn started(&mut self) -> v1::StartTask {
        match self.next().await.unwrap() {
            to_runner::Message::Start(start) => start,
            other => panic!("expected StartTask, got {other:?}"),
        }
    }

    pub(crate) async fn progress(&self, task: TaskId, phase: v1::TaskPhase) {
        self.progress_with(task, phase, None).await;
    }

    /// Says that bytes move.
    pub(crate) async fn moved(&self, task: TaskId, done_bytes: u64, total_bytes: Option<u64>) {
        let amount = v1::TransferAmount { done_bytes, total_bytes };
        self.progress_with(task, v1::TaskPhase::Syncing, Some(amount)).await;
    }

    async fn progress_with(&self, task: TaskId, phase: v1::TaskPhase, amount: Option<v1::TransferAmount>) {
        let progress = TaskProgress {
            task_id: task.to_bytes(),
            phase: phase.into(),
            detail: "working".into(),
            at_ms: 1,
            amount,
        };
        self.say(from_runner::Message::Progress(progress)).await;
    }

    pub(crate) async fn release(&self, task: TaskId) {
        self.say(from_runner::Message::Released(TaskReleased { task_id: task.to_bytes() })).await;
    }

    /// Sends log bytes and returns what the hub acknowledges.
    pub(crate) async fn log(&mut self, task: TaskId, offset: u64, data: &[u8]) -> Result<u64, Status> {
        let chunk = LogChunk { task_id: task.to_bytes(), offset, data: data.to_vec().into() };
        self.say(from_runner::Message::Log(chunk)).await;
        match self.next().await? {
            to_runner::Message::LogAck(ack) => Ok(ack.offset),
            other => panic!("expected LogAck, got {other:?}"),
        }
    }

    pub(crate) async fn ticket(&mut self, task: TaskId, direction: v1::Direction) -> v1::TicketGrant {
        let request = TicketRequest { request_id: 7, task_id: task.to_bytes(), direction: direction.into() };
        self.say(from_runner::Message::TicketRequest(request)).await;
        match self.next().await.unwrap() {
            to_runner::Message::Ticket(grant) => grant,
            other => panic!("expected TicketGrant, got {other:?}"),
        }
    }

    pub(crate) async fn finish(&mut self, finished: TaskFinished) -> Result<to_runner::Message, Status> {
        self.say(from_runner::Message::Finished(finished)).await;
        self.next().await
    }
}

/// A receipt of the hub's store for a task's result, as a push would have brought it.
pub(crate) fn receipt(store: &Identity, start: &v1::StartTask) -> v1::SignedReceipt {
    receipt_for(store, start, &start.result)
}

pub(crate) fn receipt_for(store: &Identity, start: &v1::StartTask, snapshot: &[u8]) -> v1::SignedReceipt {
    let receipt = v1::Receipt {
        transfer: vec![1; 16],
        store: store.peer().node.to_bytes(),
        volume: start.volume.clone(),
        snapshot: snapshot.to_vec(),
        guid: 42,
        stream_bytes: 1000,
        digest: vec![0; 32],
    };
    ds_transfer::receipt::sign(store, &receipt).unwrap()
}

/// A task that did well.
pub(crate) fn succeeded(start: &v1::StartTask, receipt: Option<v1::SignedReceipt>) -> TaskFinished {
    TaskFinished {
        task_id: start.task_id.clone(),
        outcome: v1::Outcome::Succeeded.into(),
        exit_code: Some(0),
        image: start.image.clone(),
        image_digest: "sha256:feed".into(),
        started_ms: 1_700_000_000_000,
        ended_ms: 1_700_000_001_000,
        receipt,
        ..TaskFinished::default()
    }
}

pub(crate) fn task_id(start: &v1::StartTask) -> TaskId {
    TaskId::from_bytes(&start.task_id).unwrap()
}

pub(crate) fn snapshot(bytes: &[u8]) -> SnapshotId {
    SnapshotId::from_bytes(bytes).unwrap()
}
