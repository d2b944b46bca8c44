//! The links to the store: one that requests share, and others for whoever asks.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ds_domain::ids::NodeId;
use ds_link::{Endpoint, Link};
use ds_proto::v1::{StoreHello, store_request::Request};
use futures_util::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use tokio::time::timeout;

use super::{Answer, open_store};
use crate::{Error, Result, clock::own_now_ms};

/// How long the store may take over what it has in memory: the time of day.
pub(super) const AT_ONCE: Duration = Duration::from_secs(10);

/// Where the store is.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) address: SocketAddr,
    pub(super) store: NodeId,
}

/// The link that requests share, or the attempt to make it that they wait for together. An attempt ends with the last who
/// waits for it.
#[derive(Default)]
pub(super) struct SharedLink(Mutex<State>);

#[derive(Default)]
struct State {
    link: Option<Link>,
    attempt: Option<WeakShared<Attempt>>,
}

type Attempt = BoxFuture<'static, std::result::Result<Link, Arc<Error>>>;

impl SharedLink {
    /// The shared link. All who find none wait for the same attempt to make one.
    pub(super) async fn link(&self, target: &Target) -> Result<Link> {
        let attempt = {
            let mut state = self.state();
            if let Some(link) = state.link.as_ref().filter(|link| !link.is_closed()) {
                return Ok(link.clone());
            }
            let under_way = state.attempt.as_ref().and_then(WeakShared::upgrade);
            under_way.filter(|attempt| attempt.peek().is_none()).unwrap_or_else(|| {
                let target = target.clone();
                let attempt = async move { target.greeted_link().await.map_err(Arc::new) }.boxed().shared();
                state.attempt = attempt.downgrade();
                attempt
            })
        };
        let link = attempt.await.map_err(Error::NotLinked)?;
        self.state().link = Some(link.clone());
        Ok(link)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    /// A new link.
    pub(super) async fn link(&self) -> Result<Link> {
        Ok(self.endpoint.connect(self.address, self.store).await?)
    }

    /// A link on which the store was told the time.
    async fn greeted_link(&self) -> Result<Link> {
        let link = self.link().await?;
        let hello = open_store(Request::Hello(StoreHello { now_ms: own_now_ms(), nodes: Vec::new() }));
        self.within(AT_ONCE, async {
            let mut control = link.open(&hello).await?;
            control.send.finish().await?;
            Answer { control, link: link.clone() }.reply().await
        })
        .await?;
        Ok(link)
    }

    /// Gives up when `patience` is over.
    pub(super) async fn within<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let unanswered = Error::Unanswered { store: self.store, seconds: patience.as_secs() };
        timeout(patience, work).await.unwrap_or(Err(unanswered))
    }
}
