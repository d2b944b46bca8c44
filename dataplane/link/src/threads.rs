//! Threads that drive connections: each runs one socket's endpoint, or one node's TCP connections, and what is spawned beside.
//!
//! A connection's work (packets, encryption, acknowledgements) happens in one task. On a thread of its own it shares its
//! core's caches with whoever feeds it, and several lanes use several cores.

use std::{future::Future, io, panic, pin::Pin, sync::Arc, thread, time::Duration};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// How long a thread whose user is gone goes on, so that the other ends hear that their connections are closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs `work` on a thread of its own, and ends it with the future: for a transfer, whose bytes then stay in one core's caches, and
/// which keeps nobody else's waiting.
pub async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let thread = Thread::start()?;
    match thread.spawn_owned(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::other("the thread has ended early")),
    }
}

/// One thread with a runtime. It ends a moment after the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    handle: Handle,
    /// What the thread waits for, for a moment, before it ends.
    last: TaskTracker,
    _user: Arc<oneshot::Sender<()>>,
}

impl Thread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (user, gone) = oneshot::channel::<()>();
        let last = TaskTracker::new();
        let ending = last.clone();
        thread::Builder::new().name("ds-lane".into()).spawn(move || {
            runtime.block_on(async {
                // The sender is never used, only dropped.
                let _ = gone.await;
                ending.close();
                let _ = timeout(FAREWELL, ending.wait()).await;
            });
        })?;
        Ok(Self { handle, last, _user: Arc::new(user) })
    }

    /// The endpoint over `socket`, which lives on it.
    pub(crate) fn endpoint(
        &self,
        config: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
        socket: std::net::UdpSocket,
    ) -> io::Result<quinn::Endpoint> {
        let runtime = Arc::new(On { handle: self.handle.clone(), last: self.last.clone() });
        quinn::Endpoint::new(config, server, socket, runtime)
    }

    /// Its runtime.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs `work` on it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(work)
    }

    /// Runs `work` on it until the answer is dropped.
    pub(crate) fn spawn_owned<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.spawn(work))
    }
}

/// Quinn's own adapter to Tokio, bound to one runtime instead of the caller's.
#[derive(Debug)]
struct On {
    handle: Handle,
    /// Quinn's tasks end by themselves, once the other ends know that their connections are closed.
    last: TaskTracker,
}

impl Runtime for On {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _inside = self.handle.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.last.spawn_on(future, &self.handle);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _inside = self.handle.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }
}
