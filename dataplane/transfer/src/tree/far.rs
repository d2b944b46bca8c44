//! The far end of a tree, as the end that runs a sync asks it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ds_domain::{TreeName, ids::NodeId};
use ds_link::{Control, Endpoint, Link, Transport};
use ds_proto::v1::{
    SignedTicket, StreamOpen, TreeChange, TreeDestroy, TreeList, TreeOk, TreeOpen, TreePart, TreeReply,
    stream_open::Kind, tree_change::Change, tree_open::Request, tree_reply::Reply,
};
use ds_zfs::{
    Features,
    replication::{Expired, Tree},
};
use tokio::{sync::watch, time::timeout};

use super::words::{self, Gathering};
use crate::{Error, Result};

/// How long the far end may take over a listing, or a part of it, and over a change.
const PATIENCE: Duration = Duration::from_mins(5);
/// Snapshots that one request lets go: within the protocol's thousand.
const DESTROYED_AT_ONCE: usize = 500;

/// A tree at another node. Cheap to clone; all clones share its idle links.
#[derive(Clone)]
pub struct FarTree(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    address: SocketAddr,
    host: NodeId,
    name: TreeName,
    /// The newest ticket: whoever made this keeps it fresh.
    ticket: watch::Receiver<SignedTicket>,
    /// Not in use at the moment; as many as there were streams at once.
    idle: Mutex<Vec<Link>>,
}

/// What the far end has.
#[derive(Debug)]
pub struct Listed {
    /// Its tree; empty if there is none yet.
    pub tree: Tree,
    /// What its ZFS can do.
    pub zfs: Features,
}

impl FarTree {
    /// The tree `name` at the node `host` at `address`, for which the tickets are. Does not link yet. The ticket is
    /// read anew for each request: one that has expired is refused.
    pub fn new(
        endpoint: Endpoint,
        address: SocketAddr,
        host: NodeId,
        name: TreeName,
        ticket: watch::Receiver<SignedTicket>,
    ) -> Self {
        Self(Arc::new(Inner { endpoint, address, host, name, ticket, idle: Mutex::default() }))
    }

    /// What stands for it in names of bookmarks: its name, and the beginning of its host's id.
    pub(super) fn owner(&self) -> String {
        format!("{}-{}", &self.0.host.to_hex()[..12], self.0.name)
    }

    /// All that is there.
    pub async fn list(&self) -> Result<Listed> {
        let (link, mut control, ok) = self.ask(Request::List(TreeList {})).await?;
        let zfs =
            ok.zfs.ok_or_else(|| Error::protocol(link.peer(), "it does not say what its ZFS can do"))?;
        let mut gathering = Gathering::new(link.peer());
        while let Some(part) = self.within(control.recv.recv::<TreePart>()).await? {
            gathering.take(part)?;
        }
        self.give_back(link);
        Ok(Listed { tree: gathering.finish(), zfs: words::abilities_from_proto(&zfs) })
    }

    /// Makes an empty filesystem there, unless there is one.
    pub async fn make_place(&self, path: &str) -> Result<()> {
        self.change(Change::MakePlace(path.to_owned())).await.map(drop)
    }

    /// Gives up what is half received there.
    pub async fn abandon(&self, path: &str) -> Result<()> {
        self.change(Change::Abandon(path.to_owned())).await.map(drop)
    }

    /// Destroys snapshots there; gives how many.
    pub async fn destroy_snapshots(&self, expired: &Expired) -> Result<u64> {
        let mut destroyed = 0;
        for some in expired.snapshots.chunks(DESTROYED_AT_ONCE) {
            let some = TreeDestroy { path: expired.path.clone(), snapshots: some.to_vec() };
            destroyed += self.change(Change::Destroy(some)).await?.destroyed;
        }
        Ok(destroyed)
    }

    async fn change(&self, change: Change) -> Result<TreeOk> {
        let (link, _control, ok) = self.ask(Request::Change(TreeChange { change: Some(change) })).await?;
        self.give_back(link);
        Ok(ok)
    }

    async fn ask(&self, request: Request) -> Result<(Link, Control, TreeOk)> {
        let link = self.link().await?;
        let mut control = link.open(&self.opening(request)).await?;
        control.send.finish().await?;
        match self.within(control.recv.recv::<TreeReply>()).await?.and_then(|reply| reply.reply) {
            Some(Reply::Ok(ok)) => Ok((link, control, ok)),
            Some(Reply::Abort(abort)) => Err(Error::aborted(link.peer(), abort)),
            None => Err(Error::protocol(link.peer(), "it does not answer")),
        }
    }

    /// The head of a stream that asks for something, with the ticket.
    pub(super) fn opening(&self, request: Request) -> StreamOpen {
        let ticket = Some(self.0.ticket.borrow().clone());
        StreamOpen { kind: Some(Kind::Tree(Box::new(TreeOpen { ticket, request: Some(request) }))) }
    }

    /// A link that nobody else uses. To be given back when it was of use.
    pub(super) async fn link(&self) -> Result<Link> {
        let idle = || self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(link) = idle() {
            if !link.is_closed() {
                return Ok(link);
            }
        }
        Ok(self.0.endpoint.connect(self.0.address, self.0.host).await?)
    }

    pub(super) fn give_back(&self, link: Link) {
        // Over TCP a link has one stream.
        if link.transport() == Transport::Tcp {
            return;
        }
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    }

    async fn within<T>(&self, work: impl Future<Output = ds_link::Result<T>>) -> Result<T> {
        let unanswered = Error::Unanswered { store: self.0.host, seconds: PATIENCE.as_secs() };
        Ok(timeout(PATIENCE, work).await.map_err(|_| unanswered)??)
    }
}
