//! Keeps the store on the hub's clock, by which it judges tickets, tells it which nodes there are, and notices
//! when it comes or goes.

use std::{error::Error, time::Duration};

use ds_domain::NodeId;
use ds_transfer::StoreClient;

use crate::{clock::now_ms, core::Core, error::chain, http::Problem};

/// Between two calls: a store that restarted knows the time before the next task needs it.
const ROUND: Duration = Duration::from_secs(15);
/// The same while it is away; an attempt itself takes up to ten seconds.
const RETRY: Duration = Duration::from_secs(1);
/// How long a request waits for a store that is known to be away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells the store until the hub stops.
pub(crate) async fn run(core: &Core) {
    tokio::select! {
        () = core.shutdown.cancelled() => {}
        () = keep_telling(core) => {}
    }
}

/// Waits until the store has answered. For work in the background, which must not stand in line before people's
/// requests while each of them waits for a store that is away.
pub(crate) async fn store_answers(core: &Core) {
    let mut answers = core.store_answers.subscribe();
    let _ = answers.wait_for(|answers| *answers).await;
}

/// Tells the store once, and notes whether it answered.
pub(crate) async fn tell_store(core: &Core) -> Result<(), Box<dyn Error + Send + Sync>> {
    let runners = core.db.runners().await?.into_iter().filter(|row| row.runner.registered);
    // The store itself is one of them, so that the list is never empty, which would say nothing.
    let nodes: Vec<NodeId> =
        runners.map(|row| NodeId::from(row.runner.id)).chain([core.store_target.node]).collect();
    let answer = core.store.hello(now_ms(), &nodes).await;
    let changed = core.store_answers.send_replace(answer.is_ok()) != answer.is_ok();
    match &answer {
        Ok(()) if changed => tracing::info!(node.id = %core.store_target.node, "the store answers"),
        Err(error) if changed => tracing::warn!(error = %chain(error), "the store does not answer any more"),
        _ => {}
    }
    Ok(answer?)
}

impl Core {
    /// The store, for somebody who waits for an answer: where it is known to be away, they are told so soon,
    /// instead of after everybody who asked before them.
    pub(crate) async fn store_for_request(&self) -> Result<&StoreClient, Problem> {
        let answers = tokio::time::timeout(PATIENCE, store_answers(self)).await;
        answers.map(|()| &self.store).map_err(|_| Problem::store_is_away())
    }
}

async fn keep_telling(core: &Core) {
    if let Err(error) = tell_store(core).await {
        tracing::warn!(error = %chain(&*error), "the store does not answer: trying again until it does");
    }
    loop {
        let answers = *core.store_answers.borrow();
        let next = tokio::time::sleep(if answers { ROUND } else { RETRY });
        tokio::select! {
            () = next => {}
            () = core.nodes_changed.notified(), if answers => {}
        }
        // Both outcomes are noted, and changes logged.
        let _ = tell_store(core).await;
    }
}
