//! `ds store`, and the store within `ds hub`.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use ds_domain::NodeId;
use ds_hub::HubState;
use ds_link::{Identity, Role};
use ds_transfer::{Store, StoreConfig};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Metrics, StateDir, runtime, start_log, until_stopped, with_metrics};

/// Where a store listens that is not told.
pub(super) const LISTEN: &str = "0.0.0.0:7602";

/// The hub's public key for tickets, beside the store's identity: 32 bytes.
const TICKET_KEY: &str = "ticket-key.pub";

#[derive(Debug, Args)]
#[command(after_help = "Example:
  ds hub --no-store --store 10.0.0.5:7602        on one machine: makes the store's keys in DIR/store
  ds store --dataset tank/store                  on the other, with the folder DIR/store brought over")]
pub(crate) struct StoreArgs {
    /// The ZFS dataset that is all this store's, such as `tank/store`; made if it is missing. Its pool must be there.
    #[arg(long, value_name = "POOL/NAME")]
    dataset: String,
    /// Where links arrive (UDP).
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: SocketAddr,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    state: StateDir,
}

pub(crate) fn run(args: StoreArgs) -> Result<()> {
    start_log()?;
    let folder = args.state.of("store")?;
    let config = Keys::open(&folder)?.config(folder, args.listen, args.dataset);
    let stop = CancellationToken::new();
    args.metrics.install();
    let work = async {
        let store = Store::build(config).await?;
        tracing::info!(store = %store.local_addr()?, "the store serves");
        store.run(stop.clone()).await;
        Ok(())
    };
    runtime("store")?.block_on(until_stopped(&stop, with_metrics(args.metrics, work)))
}

/// What a store has from its hub: a certificate, and what verifies tickets.
pub(super) struct Keys {
    identity: Identity,
    ticket_public_key: [u8; 32],
}

impl Keys {
    /// Keys from this hub, kept in `folder`. What is there from another hub's CA is replaced; the store keeps its id.
    pub(super) fn from_hub(folder: &Path, hub: &HubState) -> Result<Self> {
        let known = Identity::load(folder)?;
        let node = known.as_ref().map_or_else(|| NodeId(Uuid::new_v4()), |known| known.peer().node);
        let same_ca = |known: &Identity| known.ca_pem().trim() == hub.ca().certificate_pem().trim();
        let identity = if let Some(known) = known.filter(same_ca) {
            known
        } else {
            let identity = hub.issue(Role::Store, node)?;
            identity.save(folder)?;
            identity
        };
        let ticket_public_key = hub.ticket_public_key();
        let path = folder.join(TICKET_KEY);
        replace(&path, &ticket_public_key).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { identity, ticket_public_key })
    }

    /// Keys that a hub left in `folder`.
    fn open(folder: &Path) -> Result<Self> {
        let none = || {
            format!(
                "there are no keys for a store in {0}: `ds hub --no-store` makes them in the folder `store` of its state; \
                 bring it here as {0}",
                folder.display()
            )
        };
        let identity = Identity::load(folder)?.with_context(none)?;
        let path = folder.join(TICKET_KEY);
        let key = match fs::read(&path) {
            Ok(key) => key,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(none()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let key = key
            .try_into()
            .map_err(|_| anyhow!("{} is damaged: bring it from the hub again", path.display()))?;
        Ok(Self { identity, ticket_public_key: key })
    }

    /// The store's id.
    pub(super) fn node(&self) -> NodeId {
        self.identity.peer().node
    }

    pub(super) fn config(self, state_dir: PathBuf, listen: SocketAddr, root: String) -> StoreConfig {
        let Self { identity, ticket_public_key } = self;
        StoreConfig { listen, root, state_dir, identity, ticket_public_key }
    }
}

/// Replaces a file as a whole, so that a store that starts beside its hub never reads half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// A store on threads of its own, so that bytes under way and the hub's requests do not wait for each other.
pub(super) struct StoreThread {
    thread: JoinHandle<Result<()>>,
}

impl StoreThread {
    /// Builds the store and starts it. Returns where it listens. It ends when `stop` is cancelled, and cancels `stop` if it
    /// ends otherwise.
    pub(super) fn start(config: StoreConfig, stop: &CancellationToken) -> Result<(Self, SocketAddr)> {
        let (bound, listens) = mpsc::sync_channel(1);
        let stop = stop.clone();
        let serve = move || {
            let _ends_with_it = stop.clone().drop_guard();
            runtime("store")?.block_on(async {
                let store = Store::build(config).await?;
                bound.send(store.local_addr()?).context("the hub did not wait for its store")?;
                store.run(stop).await;
                Ok(())
            })
        };
        let thread =
            thread::Builder::new().name("store".into()).spawn(serve).context("cannot start the store")?;
        let store = Self { thread };
        match listens.recv() {
            Ok(address) => Ok((store, address)),
            // It ended before it listened; it says why.
            Err(mpsc::RecvError) => Err(store.join().expect_err("a store that did not start has an error")),
        }
    }

    /// Waits for its end.
    pub(super) fn join(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow!("the store panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_its_id_and_follows_its_hubs_ca() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("hub1"), folder.path().join("hub2"));
        let store = folder.path().join("store");
        assert!(Keys::open(&store).err().unwrap().to_string().contains("ds hub --no-store"));
        let hub = HubState::open(&first).unwrap();
        let made = Keys::from_hub(&store, &hub).unwrap();
        let again = Keys::from_hub(&store, &hub).unwrap();
        assert_eq!(made.identity.certificate_pem(), again.identity.certificate_pem());
        let opened = Keys::open(&store).unwrap();
        assert_eq!((opened.node(), opened.ticket_public_key), (made.node(), hub.ticket_public_key()));
        let hub = HubState::open(&second).unwrap();
        let moved = Keys::from_hub(&store, &hub).unwrap();
        assert_eq!(moved.node(), made.node());
        assert_eq!(moved.identity.ca_pem().trim(), hub.ca().certificate_pem().trim());
    }
}
