//! The gRPC service for nodes: registration, and the one stream of each runner.
//!
//! TLS with the hub's certificate and the CA's in the chain, so that a node that knows the CA's fingerprint
//! only can find it there. A client's certificate is optional for `Register` and required for `Session`. Start
//! reading at [`session`].

mod convert;
mod farewell;
mod inbox;
mod incoming;
mod logs;
mod methods;
mod reconcile;
mod register;
mod session;
mod sessions;
mod tickets;

use std::{pin::Pin, sync::Arc, time::Duration};

use ds_link::Identity;
use ds_proto::v1::{FromRunner, RegisterRequest, RegisterResponse, ToRunner, nodes_server::Nodes};
use futures_util::Stream;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Server, ServerTlsConfig},
};

pub(crate) use convert::{Place, changes, outcome, start_task, text};
pub(crate) use session::forget;
pub(crate) use sessions::Sessions;

use incoming::incoming;
use methods::Methods;

use crate::{core::Core, error::chain};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of one connection; a runner has one.
const STREAMS: u32 = 4;
/// Bytes of a request's headers.
const HEADER_BYTES: u32 = 16 * 1024;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

struct NodesService {
    core: Arc<Core>,
}

#[tonic::async_trait]
impl Nodes for NodesService {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        register::register(&self.core, request.into_inner()).await.map(Response::new)
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<ToRunner, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<FromRunner>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let certificates = request.peer_certs();
        let certificate = certificates.as_deref().and_then(|chain| chain.first());
        let runner = session::authenticate(&self.core, certificate.map(|der| &**der)).await?;
        let outgoing = session::open(&self.core, runner, request.into_inner()).await?;
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// Serves nodes until the hub stops.
pub(crate) async fn serve(
    core: Arc<Core>,
    identity: Identity,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    let certificate = tonic::transport::Identity::from_pem(identity.chain_pem(), identity.key_pem());
    let tls = ServerTlsConfig::new()
        .identity(certificate)
        .client_ca_root(Certificate::from_pem(identity.ca_pem()))
        .client_auth_optional(true)
        .timeout(HANDSHAKE);
    let shutdown = core.shutdown.clone();
    Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .add_service(Methods::new(NodesService { core }))
        .serve_with_incoming_shutdown(incoming(listener), shutdown.cancelled())
        .await
}

/// A fault of the database, as a node is told of it: it comes back later, and nothing is lost.
pub(crate) fn database(error: &ds_db::Error) -> Status {
    tracing::warn!(error = %chain(error), "a node's message could not be recorded");
    Status::unavailable("the hub's database failed: connect again and send it again")
}

/// Refuses a node that speaks another version of the protocol, and says which side to upgrade.
///
/// Only the number of the protocol decides, so that hub and runners can be upgraded one after the other; the
/// programs' versions are named for the person who reads it.
fn check_protocol(protocol: u32, version: &str) -> Result<(), Status> {
    let ours = ds_proto::PROTOCOL;
    let upgrade = match protocol.cmp(&ours) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "the runner",
        std::cmp::Ordering::Greater => "the hub",
    };
    Err(Status::failed_precondition(format!(
        "the runner is version {version} (protocol {protocol}) and the hub is version {VERSION} (protocol {ours}): \
         upgrade {upgrade}"
    )))
}
