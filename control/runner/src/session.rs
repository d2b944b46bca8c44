//! The stream to the hub: opened by the runner, kept open, opened again when it breaks.
//!
//! The first message in each direction is `Hello` and `Welcome`. What the runner holds stands in the `Hello`, so that
//! whatever either side missed is put right there.

use std::{sync::Arc, time::Duration};

use ds_domain::{NodeId, TaskId};
use ds_proto::{
    PROTOCOL,
    v1::{self, from_runner::Message, nodes_client::NodesClient, to_runner},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, ClientTlsConfig, Identity},
};

use crate::{
    backoff::Backoff,
    clock::now_ms,
    error::{Result, explain},
    hub::SessionNumber,
    metrics,
    register::{self, Registered},
    tasks::Tasks,
};

/// Until a connection must stand.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Between tries while the hub says no.
const REFUSED_WAIT: Duration = Duration::from_mins(1);
/// A hub that does not answer a ping for this long is gone.
const PING: Duration = Duration::from_secs(10);

/// All that a session needs.
pub(crate) struct Session {
    pub(crate) registered: Registered,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) slots: u32,
    pub(crate) labels: std::collections::HashMap<String, String>,
    pub(crate) machine: v1::Machine,
}

/// Why a session ended.
enum End {
    /// It broke, or never came to be; the text says how.
    Broken(String),
    /// The hub does not want this runner as it is.
    Refused(String),
}

impl Session {
    /// Keeps a session open until `shutdown`.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let mut backoff = Backoff::default();
        let mut refused = String::new();
        loop {
            let mut welcomed = false;
            let end = tokio::select! {
                end = self.once(&mut welcomed) => end,
                () = shutdown.cancelled() => return,
            };
            metrics::connected(false);
            if welcomed {
                backoff = Backoff::default();
            }
            let address = &self.registered.hub.address;
            let wait = match end {
                End::Broken(reason) => {
                    tracing::warn!(hub = address, "not connected to the hub, trying again: {reason}");
                    refused.clear();
                    backoff.next()
                }
                End::Refused(reason) => {
                    // Nothing changes until a person acts: said once.
                    if reason != refused {
                        tracing::error!(
                            hub = address,
                            "the hub refuses this runner, trying again each minute: {reason}"
                        );
                        refused = reason;
                    }
                    REFUSED_WAIT
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One session, from connecting to its end.
    async fn once(&self, welcomed: &mut bool) -> End {
        let hub = self.tasks.hub();
        let (opened, messages) = hub.open();
        let hello = match self.hello().await {
            Ok(hello) => hello,
            Err(error) => return End::Broken(explain(&error)),
        };
        let _ = opened.connection.send(Message::Hello(hello)).await;
        let mut incoming = match self.connect(ReceiverStream::new(messages)).await {
            Ok(incoming) => incoming,
            Err(end) => return end,
        };
        let heartbeat = match incoming.message().await {
            Ok(Some(v1::ToRunner { message: Some(to_runner::Message::Welcome(welcome)) })) => {
                match check(&welcome) {
                    Ok(heartbeat) => heartbeat,
                    Err(end) => return end,
                }
            }
            Ok(_) => return End::Broken("the hub did not welcome us".into()),
            Err(status) => return ended(&status),
        };
        *welcomed = true;
        metrics::connected(true);
        opened.announce();
        tracing::info!(hub = self.registered.hub.address, "connected to the hub");
        self.talk(incoming, heartbeat, opened.number).await
    }

    async fn connect(
        &self,
        outgoing: ReceiverStream<v1::FromRunner>,
    ) -> std::result::Result<Streaming<v1::ToRunner>, End> {
        let identity = &self.registered.identity;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(identity.ca_pem()))
            .identity(Identity::from_pem(identity.certificate_pem(), identity.key_pem()));
        let endpoint = register::endpoint(&self.registered.hub.address, tls)
            .map_err(|e| End::Broken(explain(&e)))?
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|e| End::Broken(explain(&e)))?;
        let session = NodesClient::new(channel).session(outgoing).await;
        session.map(tonic::Response::into_inner).map_err(|status| ended(&status))
    }

    async fn talk(
        &self,
        mut incoming: Streaming<v1::ToRunner>,
        heartbeat: Duration,
        session: SessionNumber,
    ) -> End {
        let mut beat = tokio::time::interval(heartbeat);
        loop {
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(message)) => self.handle(message, session).await,
                    Ok(None) => return End::Broken("the hub closed the session".into()),
                    Err(status) => return ended_later(&status),
                },
                _ = beat.tick() => {
                    // Where there is no room, enough is said already.
                    self.tasks.hub().offer(Message::Heartbeat(v1::Heartbeat { at_ms: now_ms() }));
                }
            }
        }
    }

    async fn handle(&self, message: v1::ToRunner, session: SessionNumber) {
        use to_runner::Message as To;
        let Some(message) = message.message else {
            tracing::warn!("the hub sent a message that this version does not know; it was ignored");
            return;
        };
        match message {
            To::Welcome(_) => {}
            To::Start(start) => self.tasks.start(start).await,
            To::Stop(stop) => {
                let held = told(&stop.task_id, |task| self.tasks.stop(task, session));
                self.answer_if_gone(held, stop.task_id);
            }
            To::LogAck(ack) => {
                note(told(&ack.task_id, |task| self.tasks.log_acked(task, ack.offset)), &ack.task_id);
            }
            To::Ticket(grant) => self.tasks.hub().grant(grant),
            To::FinishAck(ack) => {
                let held = told(&ack.task_id, |task| self.tasks.finish_acked(task, ack.advanced));
                self.answer_if_gone(held, ack.task_id);
            }
            To::Forget(forget) => {
                let held = told(&forget.task_id, |task| self.tasks.forget(task));
                self.answer_if_gone(held, forget.task_id);
            }
        }
    }

    /// A task that is not here any more was let go of, and the hub missed it.
    fn answer_if_gone(&self, held: bool, task_id: Vec<u8>) {
        if !held {
            self.tasks.hub().offer(Message::Released(v1::TaskReleased { task_id }));
        }
    }

    async fn hello(&self) -> Result<v1::Hello> {
        Ok(v1::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: self.slots,
            labels: self.labels.clone(),
            machine: Some(self.machine.clone()),
            tasks: self.tasks.reports(),
            snapshots: self.tasks.newest_snapshots().await?,
        })
    }

    /// This runner's id.
    pub(crate) fn runner(&self) -> NodeId {
        self.registered.identity.peer().node
    }
}

fn told(task_id: &[u8], tell: impl FnOnce(TaskId) -> bool) -> bool {
    TaskId::from_bytes(task_id).is_ok_and(tell)
}

fn note(held: bool, task_id: &[u8]) {
    if !held {
        tracing::debug!(task.id = ?task_id, "the hub spoke of a task that is not here");
    }
}

/// How often to send a heartbeat, if the hub speaks our protocol.
fn check(welcome: &v1::Welcome) -> std::result::Result<Duration, End> {
    if welcome.protocol != PROTOCOL {
        return Err(End::Refused(format!(
            "it has version {} (protocol {}), this runner version {} (protocol {PROTOCOL}): install the same version of ds on both",
            welcome.version,
            welcome.protocol,
            env!("CARGO_PKG_VERSION"),
        )));
    }
    Ok(Duration::from_secs(u64::from(welcome.heartbeat_seconds.clamp(1, 60))))
}

/// What a status means after the hub welcomed us: only who we are is settled for good, what else it does not like may
/// pass with a new session.
fn ended_later(status: &Status) -> End {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => End::Refused(status.message().to_owned()),
        _ => End::Broken(explain(status)),
    }
}

/// What a status from the hub means for the runner.
fn ended(status: &Status) -> End {
    match status.code() {
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
            End::Refused(status.message().to_owned())
        }
        _ => End::Broken(explain(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_protocol_says_what_to_upgrade() {
        let welcome = v1::Welcome { protocol: 99, version: "9.0.0".into(), heartbeat_seconds: 0 };
        let Err(End::Refused(reason)) = check(&welcome) else { panic!("accepted") };
        assert!(reason.contains("9.0.0") && reason.contains("install the same version"), "{reason}");
        assert_eq!(check(&v1::Welcome { protocol: PROTOCOL, ..welcome }).ok(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_removed_runner_is_refused_and_a_log_gap_is_not() {
        let removed = Status::permission_denied("this runner was removed: register it again");
        assert!(matches!(ended_later(&removed), End::Refused(reason) if reason.contains("was removed")));
        let gap = Status::failed_precondition("bytes 5 to 9 are missing");
        assert!(matches!(ended_later(&gap), End::Broken(_)));
    }
}
