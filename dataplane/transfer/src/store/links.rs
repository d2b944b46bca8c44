//! Accepts links, and gives each stream on them to whom it is for.

use std::{sync::Arc, time::Duration};

use ds_link::{Arriving, Control, Endpoint, Link, Role};
use ds_proto::v1::{StoreError, StoreReply, StreamOpen, store_error, store_reply::Reply, stream_open::Kind};
use tokio::{task::JoinSet, time::timeout};

use super::{Node, answers, transfers};
use crate::{Result, exchange::farewell};

/// Nodes with a link, or shaking hands for one, at once.
const MAX_LINKS: usize = 1_024;

/// How long a stream may be open without having said what it is for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Accepts links until the endpoint is closed, and waits for the last of them to end.
pub(super) async fn serve(endpoint: &Endpoint, node: &Arc<Node>) {
    let mut links = JoinSet::new();
    while let Some(arriving) = endpoint.accept().await {
        while links.try_join_next().is_some() {}
        if links.len() >= MAX_LINKS {
            tracing::warn!(address = %arriving.address(), "refused: {MAX_LINKS} nodes are linked already");
            arriving.refuse();
            continue;
        }
        links.spawn(serve_link(Arc::clone(node), arriving));
    }
    while links.join_next().await.is_some() {}
}

async fn serve_link(node: Arc<Node>, arriving: Arriving) {
    let address = arriving.address();
    let link = match arriving.link().await {
        Ok(link) => link,
        Err(error) => {
            tracing::info!(%address, %error, "a node was not let in");
            return;
        }
    };
    let peer = link.peer();
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
        (Kind::Store(request), Role::Hub) => answers::answer(&node, &mut control, request).await,
        (Kind::Transfer(open), Role::Runner | Role::Store) => {
            transfers::serve(&node, &link, &mut control, open).await;
            Ok(())
        }
        (Kind::Store(_), Role::Runner | Role::Store) => {
            refuse(&mut control, "only a hub may ask that of a store").await
        }
        (Kind::Transfer(_), Role::Hub) => refuse(&mut control, "a hub holds no data").await,
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a stream broke");
    }
    farewell(&mut control).await;
}

async fn refuse(control: &mut Control, message: &str) -> Result<()> {
    tracing::warn!(reason = message, "refused a stream");
    let error = StoreError { kind: store_error::Kind::Invalid.into(), message: message.to_owned() };
    Ok(control.send.send(&StoreReply { reply: Some(Reply::Error(error)) }).await?)
}
