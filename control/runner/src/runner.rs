//! The runner as a whole: what it needs, how it is put together, how it runs.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::Arc};

use ds_domain::NodeId;
use ds_link::{Endpoint, Transports};
use ds_zfs::{Features, Implementation, Volumes};
use tokio_util::sync::CancellationToken;

use crate::{
    docker::Docker,
    error::{Error, Result},
    hub::Hub,
    journal::Journals,
    machine, metrics,
    node::{Node, Turns},
    register,
    session::Session,
    tasks::Tasks,
};

/// What a runner is given.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Where identity and journals lie; made if it is missing.
    pub state_dir: PathBuf,
    /// A registration token, which is needed the first time and not looked at afterwards.
    pub token: Option<String>,
    /// The dataset that is all this runner's, such as `pool/runner`.
    pub root: String,
    /// Where clones of workspaces are mounted. Docker has to see the same path.
    pub mount_dir: PathBuf,
    /// Tasks that it offers to execute at once.
    pub slots: u32,
    /// What tasks can ask for.
    pub labels: BTreeMap<String, String>,
    /// Where the Docker daemon listens, such as `unix:///var/run/docker.sock`. Absent: `$DOCKER_HOST`, or the usual socket.
    pub docker_host: Option<String>,
    /// What links to stores may go over.
    pub transports: Transports,
    /// Connections that one transfer may use at most. Absent: as many as make it faster.
    pub most_lanes: Option<NonZeroUsize>,
}

/// A runner that has all it needs.
pub struct Runner {
    session: Session,
    tasks: Arc<Tasks>,
    endpoint: Endpoint,
    /// Ends the tasks' work, not their commands.
    stop: CancellationToken,
}

impl Runner {
    /// Registers if need be, opens pool and Docker, and goes on with the tasks of an earlier process. Each of these that
    /// fails says what to do.
    pub async fn build(config: RunnerConfig) -> Result<Self> {
        metrics::describe();
        let registered = register::identity(&config.state_dir, config.token.as_deref()).await?;
        let id = registered.identity.peer().node;
        let journals = Journals::open(&config.state_dir)?;
        let docker = Docker::connect(config.docker_host.as_deref(), id).await?;
        let volumes = Volumes::open(&config.root, &config.mount_dir).await?;
        let machine = machine::probe(zfs_name(volumes.features()), docker.version().await?).await;
        let endpoint = Endpoint::client(&registered.identity).map_err(Error::Identity)?;
        let mut endpoint = endpoint.over(config.transports);
        if let Some(lanes) = config.most_lanes {
            endpoint = endpoint.with_most_lanes(lanes);
        }
        let hub = Arc::new(Hub::new(&registered.hub.address));

        let turns = Turns::default();
        let node = Node { docker, volumes, endpoint: endpoint.clone(), hub, turns, journals };
        let stop = CancellationToken::new();
        let tasks = Tasks::new(Arc::new(node), stop.clone());
        let (slots, labels) = (config.slots, config.labels.into_iter().collect());
        let session = Session { registered, tasks: Arc::clone(&tasks), slots, labels, machine };
        Ok(Self { session, tasks, endpoint, stop })
    }

    /// This runner's id at the hub.
    pub fn id(&self) -> NodeId {
        self.session.runner()
    }

    /// Its name at the hub.
    pub fn name(&self) -> &str {
        &self.session.registered.hub.runner_name
    }

    /// Executes tasks until `shutdown`. Commands that run then run on: start the runner again, and it goes on with them.
    /// To end a runner for good, cancel its tasks at the hub first.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        // Also if this future is dropped.
        let _stop = self.stop.clone().drop_guard();
        self.tasks.recover().await?;
        self.session.run(&shutdown).await;
        tracing::info!(runner.id = %self.id(), "stopping; containers run on and are found again");
        self.stop.cancel();
        self.tasks.stopped().await;
        self.endpoint.close("the runner stops");
        Ok(())
    }
}

/// Such as "openzfs zfs-2.3.2-1".
fn zfs_name(features: &Features) -> String {
    let implementation = match features.implementation {
        Implementation::OpenZfs => "openzfs",
        Implementation::ZfsFuse => "zfs-fuse",
    };
    format!("{implementation} {}", features.version)
}
