//! The way to the hub as tasks see it: a connection that comes and goes, and tickets asked for over it.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ds_domain::TaskId;
use ds_proto::v1::{self, from_runner::Message};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    error::{Error, Result},
    spec::StoreTarget,
};

/// Messages that wait to be written to the hub. Log chunks are the largest, at 64 KiB; who has more to send waits.
const OUTGOING_MESSAGES: usize = 64;
/// After this long without an answer a ticket is asked for again.
const TICKET_PATIENCE: Duration = Duration::from_secs(30);

/// Shared by the session, which connects it, and the tasks, which wait until it is connected.
#[derive(Debug)]
pub(crate) struct Hub {
    connection: watch::Sender<Option<Connection>>,
    /// Who waits for which answer. Each waiting task has at most one entry.
    tickets: Mutex<HashMap<u64, oneshot::Sender<v1::TicketGrant>>>,
    requests: AtomicU64,
    sessions: AtomicU64,
    host: String,
}

/// Tells the sessions of this process apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionNumber(u64);

/// What a task needs for a transfer.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) ticket: v1::SignedTicket,
    /// Where the ticket is good, as of now.
    pub(crate) store: Option<StoreTarget>,
}

/// One session with the hub. Messages sent on it arrive in order, or it closes.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<v1::FromRunner>,
    closed: CancellationToken,
}

/// The session's end of a [`Connection`], which is closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    hub: &'a Hub,
    pub(crate) connection: Connection,
    pub(crate) number: SessionNumber,
    _closed: DropGuard,
}

/// The connection closed before the message was handed over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disconnected;

impl Hub {
    /// Not connected yet. `address` is the `host:port` of the hub's gRPC.
    pub(crate) fn new(address: &str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
        Self {
            connection: watch::Sender::new(None),
            tickets: Mutex::default(),
            requests: AtomicU64::new(1),
            sessions: AtomicU64::new(1),
            host,
        }
    }

    /// The host of the hub's address, with brackets if it is IPv6.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Makes the two ends of a session's outgoing messages; tasks see it only after [`Opened::announce`].
    pub(crate) fn open(&self) -> (Opened<'_>, mpsc::Receiver<v1::FromRunner>) {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES);
        let closed = CancellationToken::new();
        let connection = Connection { outgoing, closed: closed.clone() };
        let number = SessionNumber(self.sessions.fetch_add(1, Ordering::Relaxed));
        (Opened { hub: self, connection, number, _closed: closed.drop_guard() }, messages)
    }

    /// The connection, and the ones that follow it.
    pub(crate) fn connections(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.subscribe()
    }

    /// Waits until the hub is connected.
    pub(crate) async fn connected(&self) -> Connection {
        let mut connections = self.connections();
        let found = connections.wait_for(Option::is_some).await.expect("the sender lives in self");
        found.clone().expect("waited for it")
    }

    /// Hands a message over if the hub is connected and there is room; else it is dropped. For what a later message
    /// says as well, and for the session, which must never wait for room: it is what makes room.
    pub(crate) fn offer(&self, message: Message) {
        if let Some(connection) = &*self.connection.borrow() {
            let _ = connection.outgoing.try_send(v1::FromRunner { message: Some(message) });
        }
    }

    /// Asks the hub for a ticket, over as many connections as it takes.
    pub(crate) async fn ticket(&self, task: TaskId, direction: v1::Direction) -> Result<Grant> {
        loop {
            let connection = self.connected().await;
            let request_id = self.requests.fetch_add(1, Ordering::Relaxed);
            let waiting = Waiting::new(self, request_id);
            let task_id = task.to_bytes();
            let request = v1::TicketRequest { request_id, task_id, direction: direction.into() };
            if connection.send(Message::TicketRequest(request)).await.is_err() {
                continue;
            }
            tokio::select! {
                // An answer counts although the connection closed after it.
                biased;
                Some(grant) = waiting.answer() => {
                    return read_grant(grant);
                }
                () = connection.closed() => {}
                () = tokio::time::sleep(TICKET_PATIENCE) => {}
            }
        }
    }

    /// Hands the hub's answer to whoever asked. One that came too late is dropped: it was asked for again.
    pub(crate) fn grant(&self, grant: v1::TicketGrant) {
        let waiting = self.waiting().remove(&grant.request_id);
        if let Some(waiting) = waiting {
            // Gone if its task was told to end.
            let _ = waiting.send(grant);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<v1::TicketGrant>>> {
        self.tickets.lock().expect("nobody panics while holding it")
    }
}

fn read_grant(grant: v1::TicketGrant) -> Result<Grant> {
    let ticket = grant.ticket.ok_or(Error::Ticket(grant.refusal))?;
    let store = grant.store.map(StoreTarget::read).transpose();
    let store = store.map_err(|_| {
        Error::Ticket("it names an invalid store: are hub and runner of one version?".to_owned())
    })?;
    Ok(Grant { ticket, store })
}

/// One question under way; forgotten when dropped.
struct Waiting<'a> {
    hub: &'a Hub,
    request_id: u64,
    answer: oneshot::Receiver<v1::TicketGrant>,
}

impl<'a> Waiting<'a> {
    fn new(hub: &'a Hub, request_id: u64) -> Self {
        let (sender, answer) = oneshot::channel();
        hub.waiting().insert(request_id, sender);
        Self { hub, request_id, answer }
    }

    async fn answer(mut self) -> Option<v1::TicketGrant> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hub.waiting().remove(&self.request_id);
    }
}

impl Opened<'_> {
    /// Lets the tasks use the connection: the hub welcomed us.
    pub(crate) fn announce(&self) {
        self.hub.connection.send_replace(Some(self.connection.clone()));
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.hub.connection.send_replace(None);
    }
}

impl Connection {
    /// Hands a message over; waits while [`OUTGOING_MESSAGES`] are waiting to be written.
    pub(crate) async fn send(&self, message: Message) -> std::result::Result<(), Disconnected> {
        let message = v1::FromRunner { message: Some(message) };
        tokio::select! {
            sent = self.outgoing.send(message) => sent.map_err(|_| Disconnected),
            () = self.closed.cancelled() => Err(Disconnected),
        }
    }

    /// Returns when nothing can arrive over it any more.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn request(message: Option<v1::FromRunner>) -> v1::TicketRequest {
        match message.and_then(|m| m.message) {
            Some(Message::TicketRequest(request)) => request,
            other => panic!("expected a ticket request, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_ticket_is_asked_for_again_over_the_next_connection() {
        let hub = Hub::new("hub.example:7601");
        let task = TaskId(Uuid::new_v4());
        let asking = hub.ticket(task, v1::Direction::Push);
        let answering = async {
            let (opened, mut messages) = hub.open();
            opened.announce();
            let first = request(messages.recv().await);
            drop((opened, messages));

            let (opened, mut messages) = hub.open();
            opened.announce();
            let second = request(messages.recv().await);
            assert_ne!(first.request_id, second.request_id);
            assert_eq!(second.task_id, task.to_bytes());
            hub.grant(v1::TicketGrant { request_id: first.request_id, ..v1::TicketGrant::default() });
            hub.grant(v1::TicketGrant {
                request_id: second.request_id,
                refusal: "the project is gone".into(),
                ..v1::TicketGrant::default()
            });
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert!(answer.unwrap_err().to_string().contains("the project is gone"));
        assert!(hub.waiting().is_empty());
    }

    #[test]
    fn a_grant_says_where_the_store_is_now() {
        let node_id = Uuid::new_v4().as_bytes().to_vec();
        let store = v1::StoreAddress { node_id, address: "moved:9".into() };
        let granted =
            v1::TicketGrant { ticket: Some(v1::SignedTicket::default()), ..v1::TicketGrant::default() };
        let moved = v1::TicketGrant { store: Some(store.clone()), ..granted.clone() };
        assert_eq!(read_grant(moved).unwrap().store.unwrap().address, "moved:9");
        assert_eq!(read_grant(granted.clone()).unwrap().store, None);
        let store = Some(v1::StoreAddress { node_id: vec![1], ..store });
        let error = read_grant(v1::TicketGrant { store, ..granted }).unwrap_err();
        assert!(error.to_string().contains("invalid store"), "{error}");
    }

    #[tokio::test]
    async fn who_waits_for_room_learns_that_the_connection_closed() {
        let hub = Hub::new("hub.example:7601");
        let (opened, _messages) = hub.open();
        let connection = opened.connection.clone();
        let heartbeat = || Message::Heartbeat(v1::Heartbeat { at_ms: 0 });
        for _ in 0..OUTGOING_MESSAGES {
            connection.send(heartbeat()).await.unwrap();
        }
        let (sent, ()) = tokio::join!(connection.send(heartbeat()), async { drop(opened) });
        assert_eq!(sent, Err(Disconnected));
    }

    #[test]
    fn the_host_is_read_from_the_address() {
        assert_eq!(Hub::new("[::1]:7601").host(), "[::1]");
        assert_eq!(Hub::new("hub:7601").host(), "hub");
    }
}
