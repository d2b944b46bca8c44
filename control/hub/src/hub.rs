//! Puts a hub together and runs it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ds_db::Db;
use ds_domain::api::HubInfo;
use ds_link::{Endpoint, Identity, Trust};
use ds_transfer::StoreClient;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    HubState,
    advance::{self, Advances},
    auth::{limiter::LoginLimiter, password::Passwords},
    bootstrap,
    clock::now_ms,
    collect,
    config::{HubConfig, StoreTarget},
    core::Core,
    error::Error,
    events::Events,
    http, metrics,
    nodes::{self, Sessions},
    progress::Ticks,
    scheduler, store_clock,
};

/// How long open answers may take to end when the hub stops.
const GRACE: Duration = Duration::from_secs(5);

/// A hub that is bound to its addresses and ready to run.
pub struct Hub {
    core: Arc<Core>,
    identity: Identity,
    http: TcpListener,
    nodes: TcpListener,
    http_addr: SocketAddr,
    nodes_addr: SocketAddr,
}

impl Hub {
    /// Opens state and database, makes the first admin if there is no user, and binds both addresses. The store
    /// may still be away.
    pub async fn build(config: HubConfig) -> Result<Self, Error> {
        let state = HubState::open(&config.state_dir)?;
        let db = Db::connect(&config.database_url).await?;
        let passwords = Passwords::new();
        bootstrap::make_first_admin(&db, &passwords, &state.admin_password_file()).await?;
        let (http, http_addr) = listen(config.http).await?;
        let (nodes, nodes_addr) = listen(config.nodes).await?;
        let failed = |source| Error::Identity { path: config.state_dir.clone(), source };
        let info = HubInfo {
            version: nodes::VERSION.to_owned(),
            node_address: config.advertise.clone().unwrap_or_else(|| reachable(nodes_addr).to_string()),
            ca_pem: state.ca.certificate_pem().to_owned(),
            default_image: config.default_image.clone(),
        };
        let core = Core {
            db,
            started_ms: now_ms(),
            store: store_client(&state.identity, &config.store)?,
            trust: Trust::from_ca_pem(state.ca.certificate_pem()).map_err(failed)?,
            ca: state.ca,
            tickets: state.tickets,
            store_target: config.store,
            store_answers: watch::Sender::new(false),
            nodes_changed: Notify::new(),
            events: Events::new(),
            sessions: Sessions::default(),
            ticks: Ticks::default(),
            advances: Advances::default(),
            unknown: config.unknown,
            passwords,
            logins: LoginLimiter::default(),
            info,
            metrics: metrics::recorder(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok(Self { core: Arc::new(core), identity: state.identity, http, nodes, http_addr, nodes_addr })
    }

    /// A hub in a folder of a test.
    #[cfg(test)]
    pub(crate) async fn for_test(dir: &std::path::Path, store: StoreTarget) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = HubConfig {
            http: any_port,
            nodes: any_port,
            database_url: format!("sqlite:{}", dir.join("hub.db").display()),
            state_dir: dir.to_owned(),
            advertise: None,
            store,
            default_image: String::new(),
            unknown: crate::Unknown::Drop,
        };
        Self::build(config).await.expect("a hub starts in an empty folder")
    }

    /// The shared parts of a hub that does not run.
    #[cfg(test)]
    pub(crate) fn into_core(self) -> Core {
        Arc::into_inner(self.core).expect("nobody else has it before it runs")
    }

    /// Where HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where nodes connect.
    pub fn nodes_addr(&self) -> SocketAddr {
        self.nodes_addr
    }

    /// Serves until `shutdown` is cancelled or a server fails, then ends everything that it started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { core, identity, http, nodes, http_addr, nodes_addr } = self;
        tracing::info!(http = %http_addr, nodes = %nodes_addr, "the hub serves");
        let mut work = JoinSet::new();
        work.spawn(serve_http(core.clone(), http));
        let (for_nodes, stopping) = (core.clone(), core.clone());
        work.spawn(async move { nodes::serve(for_nodes, identity, nodes).await.map_err(Error::Nodes) });
        work.spawn(async move {
            Box::pin(keep_going(&core)).await;
            Ok(())
        });
        let first = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = work.join_next() => ended.expect("no part of the hub panics"),
        };
        stop(&stopping, work).await;
        first
    }
}

/// What a hub does by itself.
async fn keep_going(core: &Core) {
    tokio::join!(
        scheduler::run(core),
        advance::run(core),
        collect::run(core),
        store_clock::run(core),
        core.shutdown.run_until_cancelled(core.events.tell_logs()),
    );
}

/// Ends all parts: first they are asked, after [`GRACE`] they are dropped.
async fn stop(core: &Core, mut work: JoinSet<Result<(), Error>>) {
    core.shutdown.cancel();
    core.tasks.close();
    let ended = async {
        core.tasks.wait().await;
        while work.join_next().await.is_some() {}
    };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::warn!("some connections did not end in time and were cut");
    }
    work.shutdown().await;
    core.db.close().await;
    tracing::info!("the hub stopped");
}

async fn serve_http(core: Arc<Core>, listener: TcpListener) -> Result<(), Error> {
    let shutdown = core.shutdown.clone();
    let service = http::router(core).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(Error::Http)
}

fn store_client(identity: &Identity, store: &StoreTarget) -> Result<StoreClient, Error> {
    let endpoint = Endpoint::client(identity).map_err(Error::StoreLink)?;
    Ok(StoreClient::new(endpoint, store.address, store.node))
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// An address that somebody on this machine can dial.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    SocketAddr::from(([127, 0, 0, 1], bound.port()))
}
