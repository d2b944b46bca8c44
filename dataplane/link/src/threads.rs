//! Threads that drive connections: each runs one socket's endpoint, and what is spawned beside it.
//!
//! A connection's work (packets, encryption, acknowledgements) happens in one task. On a thread of its own it shares its
//! core's caches with whoever feeds it, and several lanes use several cores.

use std::{future::Future, io, pin::Pin, sync::Arc, thread, time::Duration};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// How long a thread whose user is gone goes on, so that the other ends hear that their connections are closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// One thread with a runtime. It ends a moment after the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    handle: Handle,
    _user: Arc<oneshot::Sender<()>>,
}

impl Thread {
    /// Starts a thread on which the endpoint over `socket` lives.
    pub(crate) fn with_endpoint(
        config: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
        socket: std::net::UdpSocket,
    ) -> io::Result<(Self, quinn::Endpoint)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let endpoint = quinn::Endpoint::new(config, server, socket, Arc::new(On(handle.clone())))?;
        let (user, gone) = oneshot::channel::<()>();
        let idle = endpoint.clone();
        thread::Builder::new().name("ds-lane".into()).spawn(move || {
            runtime.block_on(async {
                // The sender is never used, only dropped.
                let _ = gone.await;
                let _ = timeout(FAREWELL, idle.wait_idle()).await;
            });
        })?;
        Ok((Self { handle, _user: Arc::new(user) }, endpoint))
    }

    /// Runs `work` on it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(work)
    }
}

/// Quinn's own adapter to Tokio, bound to one runtime instead of the caller's.
#[derive(Debug)]
struct On(Handle);

impl Runtime for On {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _inside = self.0.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _inside = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }
}
