//! What a node may send before the hub knows who it is: `Register` is open to everybody, so that it takes small
//! requests only, and not for long. A `Session` reads nothing before the runner's certificate was found good.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use ds_proto::v1::nodes_server::NodesServer;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::NodesService;

/// The largest message of a runner: the end of a task with all its records and 100,000 changed files.
const SESSION_BYTES: usize = 128 * 1024 * 1024;
/// A certificate request with its token; some 1 KiB.
const REGISTER_BYTES: usize = 64 * 1024;
/// For a whole `Register`, its request included.
const REGISTER_TIME: Duration = Duration::from_secs(10);

/// The service for nodes, with the limits of each method.
#[derive(Clone)]
pub(super) struct Methods {
    register: NodesServer<NodesService>,
    session: NodesServer<NodesService>,
}

impl Methods {
    pub(super) fn new(service: NodesService) -> Self {
        let all = NodesServer::new(service);
        Self {
            register: all.clone().max_decoding_message_size(REGISTER_BYTES),
            session: all.max_decoding_message_size(SESSION_BYTES),
        }
    }
}

impl NamedService for Methods {
    const NAME: &'static str = NodesServer::<NodesService>::NAME;
}

impl Service<http::Request<Body>> for Methods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().ends_with("/Session") {
            return self.session.call(request);
        }
        let answer = self.register.call(request);
        Box::pin(async move {
            let late =
                |_| Ok(Status::deadline_exceeded("the request took longer than 10 seconds").into_http());
            tokio::time::timeout(REGISTER_TIME, answer).await.unwrap_or_else(late)
        })
    }
}
