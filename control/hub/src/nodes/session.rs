//! A runner's stream, from its first word to its end.
//!
//! One task per session takes the runner's messages in order, each recorded before it is answered. When
//! anything fails the session ends, and the runner connects again and sends again what was not acknowledged:
//! every handler is idempotent.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ds_db::{Noted, RunnerHello, RunnerRow};
use ds_domain::{
    ProjectId, RunnerId, SnapshotId, TaskId,
    api::{Event, Runner},
    task::Phase,
};
use ds_link::Role;
use ds_proto::v1::{Forget, FromRunner, Hello, TaskProgress, Welcome, from_runner, to_runner};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::{
    VERSION, check_protocol, convert, database, farewell,
    inbox::Inbox,
    logs, reconcile,
    sessions::{Opened, Outgoing, Profile},
    tickets,
};
use crate::{
    auth::secret::sha256,
    clock::now_ms,
    core::{Core, SILENCE_MS},
    error::chain,
    finish,
    tasks::stop_task,
};

const HEARTBEAT_SECONDS: u32 = 10;
pub(super) const SILENCE: Duration = Duration::from_millis(SILENCE_MS.unsigned_abs());
/// Characters of a progress line.
const DETAIL_CHARS: usize = 500;
/// After so long a step is written down again although it is the same: on the way the database says whether somebody asked
/// another hub for the task's end.
const NOTED_AGAIN: Duration = Duration::from_secs(5);

/// One runner's session, while its task runs.
pub(super) struct Session {
    pub(super) core: Arc<Core>,
    pub(super) runner: RunnerId,
    generation: u64,
    /// Tasks that were found to be this runner's, and their projects.
    owned: HashMap<TaskId, ProjectId>,
    /// Where the database has them, and their projects.
    steps: HashMap<TaskId, (ProjectId, Step)>,
    outgoing: mpsc::Sender<Outgoing>,
}

/// What a runner does for a task, as it is written down; how far it is with that is not.
struct Step {
    phase: Phase,
    detail: String,
    at: Instant,
}

/// Finds the runner behind a certificate, also one that was removed.
pub(super) async fn authenticate(core: &Core, certificate: Option<&[u8]>) -> Result<RunnerRow, Status> {
    let Some(der) = certificate else {
        return Err(Status::unauthenticated(
            "a session needs the certificate that the runner got when it registered",
        ));
    };
    let peer = core.trust.peer(der).map_err(|error| Status::unauthenticated(chain(&error)))?;
    if peer.role != Role::Runner {
        return Err(Status::permission_denied(format!("only runners hold sessions, and this is {peer}")));
    }
    match core.db.runner_ever(RunnerId(peer.node.0)).await {
        Ok(row) if row.certificate == Some(sha256(der)) => Ok(row),
        Ok(_) | Err(ds_db::Error::NotFound { .. }) => Err(removed()),
        Err(error) => Err(database(&error)),
    }
}

/// What is said to a runner that is not this hub's (any more).
pub(super) fn removed() -> Status {
    Status::unauthenticated(
        "the hub does not know this runner (any more): register it again with a new token",
    )
}

/// Takes the runner's first message and opens its session.
pub(super) async fn open(
    core: &Arc<Core>,
    row: RunnerRow,
    mut incoming: Streaming<FromRunner>,
) -> Result<ReceiverStream<Outgoing>, Status> {
    let first = tokio::time::timeout(SILENCE, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the runner said nothing"))??;
    let Some(from_runner::Message::Hello(mut hello)) = first.and_then(|first| first.message) else {
        return Err(Status::failed_precondition("the first message of a session has to be Hello"));
    };
    check_protocol(hello.protocol, &hello.version)?;
    let reports = std::mem::take(&mut hello.tasks);
    if row.removed {
        return farewell::open(core, row.runner.id, &reports, incoming);
    }
    let runner = row.runner;
    let profile = note_hello(core, &runner, hello).await?;
    let (opened, receiver) = core.sessions.open(runner.id);
    let Opened { generation, end, outgoing } = opened;
    let id = runner.id;
    let mut session = Session {
        core: core.clone(),
        runner: id,
        generation,
        owned: HashMap::new(),
        steps: HashMap::new(),
        outgoing,
    };
    tracing::info!(runner.id = %id, runner.name = runner.name, "a runner connected");
    core.events.publish(Event::Runner { id });
    let shutdown = core.shutdown.clone();
    let work = async move {
        let result = tokio::select! {
            () = end.cancelled() => Ok(()),
            () = shutdown.cancelled() => Err(Status::unavailable("the hub stops: connect again")),
            result = session.run(profile, reports, incoming) => result,
        };
        session.close(result);
    };
    core.tasks.spawn(work.instrument(tracing::info_span!("session", runner.id = %id)));
    Ok(ReceiverStream::new(receiver))
}

/// Notes what the runner says of itself, in the database and for the scheduler.
async fn note_hello(core: &Core, runner: &Runner, hello: Hello) -> Result<Profile, Status> {
    let labels = hello.labels.into_iter().collect();
    let machine = convert::machine(hello.machine.unwrap_or_default());
    let said = RunnerHello { labels, slots: hello.slots, version: hello.version, machine };
    core.db.runner_connected(runner.id, &said, now_ms()).await.map_err(|error| database(&error))?;
    Ok(Profile {
        name: runner.name.clone(),
        labels: said.labels,
        slots: said.slots,
        machine: said.machine,
        holds: hello.snapshots.iter().filter_map(|id| SnapshotId::from_bytes(id).ok()).collect(),
    })
}

impl Session {
    async fn run(
        &mut self,
        profile: Profile,
        reports: Vec<ds_proto::v1::TaskReport>,
        incoming: Streaming<FromRunner>,
    ) -> Result<(), Status> {
        for message in reconcile::reconcile(&self.core, self.runner, reports).await? {
            self.send(message).await?;
        }
        // Only now, so that nothing is started in between that these messages know nothing of.
        self.core.sessions.ready(self.runner, self.generation, profile);
        self.core.events.wake_scheduler();
        let mut inbox = Inbox::new(incoming);
        while let Some(message) = inbox.next().await? {
            if let Some(answer) = self.handle(message).await? {
                self.send(answer).await?;
            }
        }
        Ok(())
    }

    async fn handle(&mut self, message: from_runner::Message) -> Result<Option<to_runner::Message>, Status> {
        match message {
            from_runner::Message::Hello(_) => {
                Err(Status::failed_precondition("Hello is said once a session"))
            }
            from_runner::Message::Progress(progress) => self.progress(progress).await,
            from_runner::Message::Log(chunk) => {
                let task = task_id(&chunk.task_id)?;
                logs::append(self, task, chunk).await.map(Some)
            }
            from_runner::Message::TicketRequest(request) => {
                tickets::grant(&self.core, self.runner, request).await.map(Some)
            }
            from_runner::Message::Finished(finished) => {
                let task = task_id(&finished.task_id)?;
                self.forget_step(task);
                finish::finish(&self.core, self.runner, task, finished).await
            }
            from_runner::Message::Released(released) => {
                let task = task_id(&released.task_id)?;
                self.owned.remove(&task);
                self.forget_step(task);
                tracing::debug!(task.id = %task, "the runner has let go of a task");
                let answer = reconcile::settle_released(&self.core, self.runner, task).await;
                self.core.sessions.released(self.runner, task);
                self.core.events.wake_scheduler();
                answer.map_err(|error| database(&error))
            }
            from_runner::Message::Heartbeat(_) => {
                let noted = self.core.db.runner_seen(self.runner, now_ms()).await;
                noted.map(|()| None).map_err(|error| database(&error))
            }
        }
    }

    async fn progress(&mut self, progress: TaskProgress) -> Result<Option<to_runner::Message>, Status> {
        let task = task_id(&progress.task_id)?;
        let Some(phase) = convert::phase(progress.phase) else { return Ok(None) };
        let amount = progress.amount.map(convert::amount);
        let step = Step { phase, detail: convert::text(&progress.detail, DETAIL_CHARS), at: Instant::now() };
        if let Some((project, amount)) = self.project_at(task, &step).zip(amount) {
            self.core.ticks.note(task, Some(amount));
            self.core.events.publish(Event::Progress { id: task, project, progress: amount });
            return Ok(None);
        }
        // Before the step is: nobody is to see it with the last one's bytes.
        self.core.ticks.note(task, None);
        let noted = self.core.db.task_progress(task, self.runner, phase, &step.detail, now_ms()).await;
        match noted {
            Ok(Some(Noted { project, cancelling })) => {
                self.core.ticks.note(task, amount);
                self.steps.insert(task, (project, step));
                self.core.events.publish(Event::Task { id: task, project });
                // It may have been cancelled before the runner knew of it.
                Ok(cancelling.then(|| stop_task(task)))
            }
            Ok(None) => {
                self.forget_step(task);
                self.not_running(task).await.map(Some)
            }
            Err(error) => Err(database(&error)),
        }
    }

    /// The task's project if the database knows already, as of late, that it is at this step.
    fn project_at(&self, task: TaskId, now: &Step) -> Option<ProjectId> {
        let (project, noted) = self.steps.get(&task)?;
        let same = noted.phase == now.phase && noted.detail == now.detail;
        (same && now.at.duration_since(noted.at) < NOTED_AGAIN).then_some(*project)
    }

    fn forget_step(&mut self, task: TaskId) {
        self.steps.remove(&task);
        self.core.ticks.note(task, None);
    }

    /// What to say to progress of a task that is not running here: it ended, or never was this runner's.
    async fn not_running(&self, task: TaskId) -> Result<to_runner::Message, Status> {
        match self.core.db.task(task).await {
            Ok(row) if row.runner == Some(self.runner) => Ok(finish::answer_to_ended(&row)),
            Ok(_) | Err(ds_db::Error::NotFound { .. }) => Ok(forget(task)),
            Err(error) => Err(database(&error)),
        }
    }

    /// The task's project, if it is this runner's.
    pub(super) async fn project_of(&mut self, task: TaskId) -> Result<Option<ProjectId>, Status> {
        if let Some(project) = self.owned.get(&task) {
            return Ok(Some(*project));
        }
        match self.core.db.task(task).await {
            Ok(row) if row.runner == Some(self.runner) => {
                self.owned.insert(task, row.task.project);
                Ok(Some(row.task.project))
            }
            Ok(_) | Err(ds_db::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(database(&error)),
        }
    }

    /// Waits while the runner does not read; the silence that follows ends a session that hangs.
    async fn send(&self, message: to_runner::Message) -> Result<(), Status> {
        if let to_runner::Message::Forget(forget) = &message {
            self.core.sessions.lets_go(self.runner, task_id(&forget.task_id)?);
        }
        let sent = tokio::time::timeout(SILENCE, self.outgoing.send(Ok(convert::to_runner(message)))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the runner's connection is gone")),
            Err(_) => Err(Status::resource_exhausted("the runner does not read")),
        }
    }

    fn close(self, result: Result<(), Status>) {
        for task in self.steps.keys() {
            self.core.ticks.note(*task, None);
        }
        let offline = self.core.sessions.close(self.runner, self.generation);
        match result {
            Ok(()) => tracing::info!(offline, "a runner's session ended"),
            Err(status) => {
                tracing::info!(offline, reason = status.message(), "a runner's session ended");
                let _ = self.outgoing.try_send(Err(status));
            }
        }
        self.core.events.publish(Event::Runner { id: self.runner });
        self.core.events.wake_scheduler();
    }
}

/// The message that opens every session.
pub(super) fn welcome() -> to_runner::Message {
    to_runner::Message::Welcome(Welcome {
        protocol: ds_proto::PROTOCOL,
        version: VERSION.to_owned(),
        heartbeat_seconds: HEARTBEAT_SECONDS,
    })
}

/// The message that makes a runner drop a task.
pub(crate) fn forget(task: TaskId) -> to_runner::Message {
    to_runner::Message::Forget(Forget { task_id: task.to_bytes() })
}

pub(super) fn task_id(bytes: &[u8]) -> Result<TaskId, Status> {
    TaskId::from_bytes(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}
