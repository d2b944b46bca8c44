//! Accepts links, and gives each stream on them to whom it is for.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use ds_link::{Arriving, Control, Endpoint, Link, Role, apart};
use ds_proto::v1::{
    StoreError, StoreReply, StreamOpen, TransferReply, store_error, store_reply::Reply, stream_open::Kind,
    transfer_reply,
};
use tokio::{
    task::{self, JoinSet},
    time::timeout,
};

use super::{Node, answers, transfers, trees};
use crate::{Result, exchange::farewell, joins::Purpose};

/// Nodes that shake hands at once, from everywhere and from one address.
const MAX_HANDSHAKES: usize = 128;
const MAX_HANDSHAKES_OF_ADDRESS: usize = 16;
/// Above this many, a node first has to show that its address is its own: made-up ones cannot take all places.
const MAX_HANDSHAKES_UNASKED: usize = 8;

/// How long a stream may be open without having said what it is for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Accepts links until the endpoint is closed, and waits for the last of them to end.
pub(super) async fn serve(endpoint: &Endpoint, node: &Arc<Node>) {
    let (mut handshakes, mut links) = (Handshakes::default(), JoinSet::new());
    loop {
        tokio::select! {
            arriving = endpoint.accept() => match arriving {
                Some(arriving) => handshakes.begin(arriving),
                None => break,
            },
            Some(link) = handshakes.next() => {
                if let Some(link) = link {
                    links.spawn(serve_link(Arc::clone(node), link));
                }
            }
            Some(_) = links.join_next() => {}
        }
    }
    while links.join_next().await.is_some() {}
}

/// Nodes that have not shown who they are. They end with this.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<Option<Link>>,
    addresses: HashMap<task::Id, IpAddr>,
}

impl Handshakes {
    fn begin(&mut self, arriving: Arriving) {
        let address = arriving.address();
        if self.tasks.len() >= MAX_HANDSHAKES_UNASKED && !arriving.is_validated() {
            return arriving.validate();
        }
        let of_address = self.addresses.values().filter(|other| **other == address.ip()).count();
        if self.tasks.len() >= MAX_HANDSHAKES || of_address >= MAX_HANDSHAKES_OF_ADDRESS {
            tracing::warn!(%address, "refused: too many nodes shake hands");
            return arriving.refuse();
        }
        let handshake = self.tasks.spawn(async move {
            let link = arriving.link().await;
            link.inspect_err(|error| tracing::info!(%address, %error, "a node was not let in")).ok()
        });
        self.addresses.insert(handshake.id(), address.ip());
    }

    /// The next that is through, with its link unless it failed; `None` while there is none. May be cancelled.
    async fn next(&mut self) -> Option<Option<Link>> {
        let (id, link) = match self.tasks.join_next_with_id().await? {
            Ok((id, link)) => (id, link),
            Err(panicked) => (panicked.id(), None),
        };
        self.addresses.remove(&id);
        Some(link)
    }
}

async fn serve_link(node: Arc<Node>, link: Link) {
    let (peer, address) = (link.peer(), link.remote_address());
    let _place = match node.peers.admit(&link) {
        Ok(place) => place,
        Err(reason) => {
            tracing::warn!(%peer, %address, reason, "a node was not let in");
            return;
        }
    };
    tracing::debug!(%peer, %address, "linked");
    let mut streams = JoinSet::new();
    let end = loop {
        match link.accept().await {
            Ok(control) => {
                while streams.try_join_next().is_some() {}
                streams.spawn(serve_stream(Arc::clone(&node), link.clone(), control));
            }
            Err(end) => break end,
        }
    };
    tracing::debug!(%peer, reason = %end, "link ended");
    // Each sees the link's end by itself, cleans up and returns.
    while streams.join_next().await.is_some() {}
}

async fn serve_stream(node: Arc<Node>, link: Link, mut control: Control) {
    let peer = link.peer();
    let first = timeout(PATIENCE, control.recv.recv::<StreamOpen>()).await;
    let kind = match first {
        Ok(Ok(Some(StreamOpen { kind: Some(kind) }))) => kind,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a stream broke before it began");
            return;
        }
        Ok(Ok(_)) | Err(_) => {
            tracing::debug!(%peer, "a stream that says nothing was dropped");
            return;
        }
    };
    let served = match (kind, peer.role) {
        (Kind::Lane(open), Role::Runner | Role::Store) => {
            return join(&node, Purpose::Lane, &open.transfer, link, control).await;
        }
        (Kind::Rejoin(open), Role::Runner | Role::Store) => {
            link.keep_alive(&mut control);
            return join(&node, Purpose::Rejoin, &open.transfer, link, control).await;
        }
        (Kind::Store(request), Role::Hub) => answers::answer(&node, &mut control, request).await,
        (Kind::Transfer(open), Role::Runner | Role::Store) => {
            link.keep_alive(&mut control);
            return on_its_thread(Box::pin(
                async move { transfers::serve(&node, &link, control, open).await },
            ))
            .await;
        }
        (Kind::Tree(open), Role::Runner | Role::Store) => {
            return on_its_thread(Box::pin(async move { trees::serve(&node, &link, control, *open).await }))
                .await;
        }
        (Kind::Store(_), Role::Runner | Role::Store) => {
            refuse(&mut control, "only a hub may ask that of a store").await
        }
        (Kind::Transfer(_) | Kind::Lane(_) | Kind::Rejoin(_) | Kind::Tree(_), Role::Hub) => {
            refuse(&mut control, "a hub holds no data").await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a stream broke");
    }
    farewell(&mut control).await;
}

/// Serves what moves bytes on a thread of its own.
async fn on_its_thread(serving: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = apart(serving).await {
        tracing::error!(%error, "a transfer was dropped: no thread for it");
    }
}

/// Brings a link to the transfer that it is for, which answers itself.
async fn join(node: &Node, purpose: Purpose, transfer: &[u8], link: Link, control: Control) {
    let peer = link.peer();
    if let Err((mut control, error)) = node.joins.bring(purpose, transfer, link, control).await {
        tracing::info!(%peer, %error, "a link cannot join");
        let refused = TransferReply { reply: Some(transfer_reply::Reply::Abort(error.to_abort())) };
        // An end that is gone need not be told.
        let _ = control.send.send(&refused).await;
        farewell(&mut control).await;
    }
}

async fn refuse(control: &mut Control, message: &str) -> Result<()> {
    tracing::warn!(reason = message, "refused a stream");
    let error = StoreError { kind: store_error::Kind::Invalid.into(), message: message.to_owned() };
    Ok(control.send.send(&StoreReply { reply: Some(Reply::Error(error)) }).await?)
}
