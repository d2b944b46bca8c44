//! From one pipe to another: a transfer without ZFS, with all that transfers have. For streams of other origin, and for
//! measuring what the transport alone can do.

use std::{os::fd::OwnedFd, sync::Arc};

use ds_domain::ids::SnapshotId;
use ds_link::{Control, Endpoint, Link, apart};
use ds_proto::v1::{
    Receipt, StreamOpen, TransferAccept, TransferOpen, TransferReply, stream_open::Kind,
    transfer_control::Message as Said, transfer_reply::Reply,
};
use ds_wire::TransferId;
use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error, Result,
    client::conclude,
    exchange::{self, End, Exchange, WINDOW_BYTES},
    joins::{self, Joins, Purpose},
    receipt::unsigned,
    receiving, sending,
};

/// Sends all of `pipe` to the end that [`receive_pipe`] runs at; gives the number of bytes once they are written there.
pub async fn send_pipe(link: &Link, pipe: OwnedFd, cancel: &CancellationToken) -> Result<u64> {
    let (link, cancel) = (link.clone(), cancel.clone());
    apart(async move { send_pipe_here(&link, pipe, &cancel).await }).await.map_err(Error::Thread)?
}

async fn send_pipe_here(link: &Link, pipe: OwnedFd, cancel: &CancellationToken) -> Result<u64> {
    let transfer = TransferId(Uuid::new_v4().into_bytes());
    let open = TransferOpen { transfer: transfer.0.to_vec(), ..TransferOpen::default() };
    let control = exchange::open(link, &StreamOpen { kind: Some(Kind::Transfer(open)) }).await?;
    let (joins, joining) = joins::queue();
    let mut exchange = Exchange::new(End::Opener, transfer, (link, control), joining, cancel);
    joins::accepted(link, &mut exchange.control).await?;
    let growing = joins::grow(link.clone(), transfer, Arc::clone(&exchange.moved), joins);
    let result = tokio::select! {
        sent = sending::send_from(&mut exchange, pipe, async { Ok(()) }, WINDOW_BYTES) => sent,
        never = growing => match never {},
    };
    conclude(&mut exchange.control, result).await.map(|sent| sent.fin.bytes)
}

/// Takes in the first transfer that arrives at `endpoint`, with its lanes, and writes it into `pipe`; gives the number of bytes.
pub async fn receive_pipe(endpoint: &Endpoint, pipe: OwnedFd, cancel: &CancellationToken) -> Result<u64> {
    let joins = Arc::new(Joins::default());
    let (opened, first) = oneshot::channel();
    let mut opened = Some(opened);
    let mut links = JoinSet::new();
    let accepting = async {
        while let Some(arriving) = endpoint.accept().await {
            if let Ok(link) = arriving.link().await {
                let joins = Arc::clone(&joins);
                links.spawn(serve(link, joins, opened.take()));
            }
        }
    };
    let receiving = async {
        let opened = first.await.map_err(|_| Error::Cancelled)?;
        let (joins, cancel) = (Arc::clone(&joins), cancel.clone());
        apart(async move { receive_here(opened, &joins, pipe, &cancel).await })
            .await
            .map_err(Error::Thread)?
    };
    tokio::select! {
        result = receiving => result,
        () = accepting => Err(Error::Cancelled),
    }
}

async fn receive_here(
    (link, control, transfer): Opened,
    joins: &Joins,
    pipe: OwnedFd,
    cancel: &CancellationToken,
) -> Result<u64> {
    let (_place, joining) = joins.open(transfer, link.peer(), SnapshotId(Uuid::nil()))?;
    let chunks = link.chunks(transfer.0);
    let mut exchange = Exchange::new(End::Acceptor, transfer, (&link, control), joining, cancel);
    let accept = TransferReply { reply: Some(Reply::Accept(TransferAccept::default())) };
    exchange.control.send.send(&accept).await?;
    let result = async {
        let fin = receiving::receive_into(&mut exchange, chunks, pipe).await?;
        exchange.tell(Said::Receipt(unsigned(&Receipt::default()))).await?;
        Ok(fin.bytes)
    };
    let result = result.await;
    conclude(&mut exchange.control, result).await
}

/// A transfer that its opener waits to be accepted.
type Opened = (Link, Control, TransferId);

/// The first transfer goes to whoever waits for it, further links to their transfer.
async fn serve(link: Link, joins: Arc<Joins>, mut opened: Option<oneshot::Sender<Opened>>) {
    while let Ok(mut control) = link.accept().await {
        let Ok(Some(StreamOpen { kind: Some(kind) })) = control.recv.recv().await else { continue };
        match kind {
            Kind::Transfer(open) => {
                link.keep_alive(&mut control);
                let id = open.transfer.as_slice().try_into().map(TransferId);
                if let (Ok(id), Some(opened)) = (id, opened.take()) {
                    let _ = opened.send((link.clone(), control, id));
                }
            }
            // What cannot join is dropped, and its sender sees that.
            Kind::Lane(open) => {
                drop(joins.bring(Purpose::Lane, &open.transfer, link.clone(), control).await);
            }
            Kind::Rejoin(open) => {
                link.keep_alive(&mut control);
                drop(joins.bring(Purpose::Rejoin, &open.transfer, link.clone(), control).await);
            }
            Kind::Store(_) | Kind::Tree(_) => {}
        }
    }
}
