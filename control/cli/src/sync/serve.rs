//! `ds sync serve`: a store of its own that keeps trees, with the identity of a runner.

use std::fs;

use anyhow::{Context as _, Result};
use ds_transfer::{Store, StoreConfig};
use tokio_util::sync::CancellationToken;

use super::{args::ServeArgs, identity};
use crate::roles::{log_from, runtime, until_stopped, with_metrics};

/// The hub's public key for tickets, beside the identity: 32 bytes.
const TICKET_KEY: &str = "ticket-key.pub";

pub(super) fn run(args: ServeArgs) -> Result<()> {
    log_from("info")?;
    args.metrics.install();
    let stop = CancellationToken::new();
    let work = async {
        let (identity, folder) =
            identity::folder(&args.state, args.identity.as_deref(), args.token.as_deref()).await?;
        let path = folder.join(TICKET_KEY);
        let key = fs::read(&path).with_context(|| {
            format!("cannot read {}, which verifies tickets: register this machine anew", path.display())
        })?;
        let ticket_public_key =
            key.try_into().ok().with_context(|| format!("{} holds no key of 32 bytes", path.display()))?;
        let state_dir = args.state.of("sync/serve")?;
        let config =
            StoreConfig { listen: args.listen, root: args.dataset, state_dir, identity, ticket_public_key };
        let store = Store::build(config).await?;
        tracing::info!(listen = %store.local_addr()?, "trees are served");
        store.run(stop.clone()).await;
        Ok(())
    };
    runtime("sync")?.block_on(until_stopped(&stop, with_metrics(args.metrics, work)))
}
