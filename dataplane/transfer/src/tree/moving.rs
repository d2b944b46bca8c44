//! One stream of a tree, at the end that runs the sync.

use std::sync::Arc;

use ds_link::{Control, Link};
use ds_proto::v1::{
    Receipt, TransferAccept, TransferReply, TreeMove, transfer_control::Message as Said,
    transfer_reply::Reply, tree_open::Request,
};
use ds_wire::TransferId;
use ds_zfs::{LocalTree, SnapshotGuid, StreamMode, replication::Step};
use futures_util::future::join_all;
use prost::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    FarTree, Pace,
    pump::{Feed, Whole, feed},
    words,
};
use crate::{
    Error, Progress, Result,
    client::conclude,
    exchange::{self, End, Exchange, WINDOW_BYTES},
    joins,
    receipt::unsigned,
    receiving, sending,
};

/// What a stream is made of, at both ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream<'a> {
    /// The dataset's path at the source.
    pub(super) path: &'a str,
    pub(super) step: &'a Step,
    pub(super) mode: StreamMode,
}

/// What moving takes, whatever moves.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) pace: Option<&'a Pace>,
    /// Told how far the stream is, with the receiver's number.
    pub(super) progress: &'a (dyn Fn(usize, Progress) + Send + Sync),
    pub(super) cancel: &'a CancellationToken,
}

/// A receiver that has let the stream in.
struct Receiver {
    number: usize,
    link: Link,
    control: Control,
    transfer: TransferId,
    window_bytes: u64,
}

/// Brings a stream to each of `to`, into the path given with it, with one `zfs send` for all. Gives, for each, the
/// bytes of the stream, or why it has not arrived there.
pub(super) async fn push(
    from: &LocalTree,
    stream: Stream<'_>,
    to: &[(&FarTree, &str)],
    means: Means<'_>,
) -> Vec<Result<u64>> {
    let estimate = match from.estimate(stream.path, stream.step, stream.mode).await {
        Ok(estimate) => estimate,
        Err(error) => return fail_all(to.len(), error.into()),
    };
    let opening =
        to.iter().enumerate().map(|(number, (far, into))| open_push(number, far, into, stream, estimate));
    let mut results: Vec<Result<u64>> = Vec::new();
    let mut receivers = Vec::new();
    for opened in join_all(opening).await {
        results.push(opened.map(|receiver| receivers.push(receiver)).map(|()| 0));
    }
    if receivers.is_empty() {
        return results;
    }
    let numbers: Vec<usize> = receivers.iter().map(|receiver| receiver.number).collect();
    let sent = match from.send(stream.path, stream.step, stream.mode).await {
        Ok(source) => send_to_each(source, receivers, stream, estimate, means).await,
        Err(error) => give_up(receivers, error.into()).await,
    };
    for (number, (sent, link)) in numbers.into_iter().zip(sent) {
        if let (Ok(_), Some(link)) = (&sent, link) {
            to[number].0.give_back(link);
        }
        results[number] = sent;
    }
    results
}

type Sent = (Result<u64>, Option<Link>);

async fn open_push(
    number: usize,
    far: &FarTree,
    into: &str,
    stream: Stream<'_>,
    estimate: Option<u64>,
) -> Result<Receiver> {
    let transfer = new_transfer();
    let wanted = TreeMove {
        transfer: transfer.0.to_vec(),
        path: into.to_owned(),
        step: words::step_to_proto(stream.step),
        mode: stream.mode.to_string(),
        estimate_bytes: estimate.unwrap_or(0),
        source_path: stream.path.to_owned(),
        ..TreeMove::default()
    };
    let link = far.link().await?;
    let mut control = exchange::open(&link, &far.opening(Request::Move(wanted))).await?;
    let window_bytes = accepted(&link, &mut control).await?.window_bytes.min(WINDOW_BYTES);
    Ok(Receiver { number, link, control, transfer, window_bytes })
}

async fn send_to_each(
    source: ds_zfs::Sending,
    receivers: Vec<Receiver>,
    stream: Stream<'_>,
    estimate: Option<u64>,
    means: Means<'_>,
) -> Vec<Sent> {
    let Feed { pipes, whole, pumping } = match feed(source, receivers.len(), means.pace) {
        Ok(feed) => feed,
        Err(error) => return give_up(receivers, error).await,
    };
    let guid = stream.step.brings().map(|to| to.guid);
    let sending = receivers
        .into_iter()
        .zip(pipes)
        .map(|(receiver, pipe)| send_to(receiver, pipe, whole.clone(), (guid, estimate), means));
    tokio::select! {
        sent = join_all(sending) => sent,
        never = pumping => match never {},
    }
}

async fn send_to(
    receiver: Receiver,
    pipe: std::os::fd::OwnedFd,
    whole: Whole<'_>,
    (guid, estimate): (Option<SnapshotGuid>, Option<u64>),
    means: Means<'_>,
) -> Sent {
    let Receiver { number, link, control, transfer, window_bytes } = receiver;
    let (joins, joining) = joins::queue();
    let mut exchange = Exchange::new(End::Opener, transfer, (&link, control), joining, means.cancel);
    let progress = |progress| (means.progress)(number, progress);
    exchange.progress = &progress;
    exchange.estimate = estimate;
    let growing = joins::grow(link.clone(), transfer, Arc::clone(&exchange.moved), joins);
    let whole = async { Ok(whole.await?) };
    let sent = tokio::select! {
        sent = sending::send_from(&mut exchange, pipe, whole, window_bytes) => sent,
        never = growing => match never {},
    };
    let result = sent.and_then(|sent| {
        let receipt = Receipt::decode(sent.receipt.payload.as_slice()).ok();
        let fits = receipt.is_some_and(|receipt| {
            Some(SnapshotGuid(receipt.guid)) == guid && receipt.digest == sent.fin.digest.0
        });
        if fits {
            Ok(sent.fin.bytes)
        } else {
            Err(Error::protocol(link.peer(), "a receipt for something else"))
        }
    });
    let result = conclude(&mut exchange.control, result).await;
    (result, Some(exchange.link))
}

/// Tells receivers that let the stream in that there is none.
async fn give_up(receivers: Vec<Receiver>, error: Error) -> Vec<Sent> {
    let shared = Arc::new(error);
    let mut results = Vec::new();
    for mut receiver in receivers {
        let result = conclude(&mut receiver.control, Err(Error::Read(Arc::clone(&shared)))).await;
        results.push((result, Some(receiver.link)));
    }
    results
}

fn fail_all(count: usize, error: Error) -> Vec<Result<u64>> {
    let shared = Arc::new(error);
    (0..count).map(|_| Err(Error::Read(Arc::clone(&shared)))).collect()
}

/// Fetches a stream into `into`. Gives its bytes.
pub(super) async fn pull(
    far: &FarTree,
    stream: Stream<'_>,
    (to, into): (&LocalTree, &str),
    means: Means<'_>,
) -> Result<u64> {
    let transfer = new_transfer();
    let wanted = TreeMove {
        transfer: transfer.0.to_vec(),
        path: stream.path.to_owned(),
        step: words::step_to_proto(stream.step),
        mode: stream.mode.to_string(),
        estimate_bytes: 0,
        limits: means.pace.map(Pace::to_string).unwrap_or_default(),
        utc_offset_s: means.pace.map_or(0, Pace::utc_offset_s),
        source_path: String::new(),
    };
    let intake = to.receive(into, stream.path, stream.step, stream.mode).await?;
    let link = far.link().await?;
    // Before the other end may send any.
    let chunks = link.chunks(transfer.0);
    let mut control = exchange::open(&link, &far.opening(Request::Move(wanted))).await?;
    let accept = accepted(&link, &mut control).await?;
    let (joins, joining) = joins::queue();
    let mut exchange = Exchange::new(End::Opener, transfer, (&link, control), joining, means.cancel);
    let progress = |progress| (means.progress)(0, progress);
    exchange.progress = &progress;
    exchange.estimate = accept.plan.map(|plan| plan.estimate_bytes).filter(|bytes| *bytes > 0);
    let growing = joins::grow(link.clone(), transfer, Arc::clone(&exchange.moved), joins);
    let receiving = async {
        let received = receiving::receive(&mut exchange, chunks, intake, None).await?;
        let receipt = Receipt {
            transfer: transfer.0.to_vec(),
            guid: received.guid.0,
            stream_bytes: received.fin.bytes,
            digest: received.fin.digest.0.to_vec(),
            ..Receipt::default()
        };
        exchange.tell(Said::Receipt(unsigned(&receipt))).await?;
        Ok(received.fin.bytes)
    };
    let result = tokio::select! {
        result = receiving => result,
        never = growing => match never {},
    };
    let result = conclude(&mut exchange.control, result).await;
    if result.is_ok() {
        far.give_back(exchange.link);
    }
    result
}

fn new_transfer() -> TransferId {
    TransferId(Uuid::new_v4().into_bytes())
}

async fn accepted(link: &Link, control: &mut Control) -> Result<TransferAccept> {
    match control.recv.recv::<TransferReply>().await?.and_then(|reply| reply.reply) {
        Some(Reply::Accept(accept)) => Ok(accept),
        Some(Reply::Abort(abort)) => Err(Error::aborted(link.peer(), abort)),
        Some(Reply::Already(_)) | None => {
            Err(Error::protocol(link.peer(), "it does not answer a stream's opening"))
        }
    }
}
