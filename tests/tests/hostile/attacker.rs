//! A node of ours that does what it must not.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Chunks, Control, Endpoint, Link, Role};
use ds_proto::v1::{
    AbortCode, Plan, SignedTicket, StreamOpen, TransferControl, TransferOpen, TransferReply,
    stream_open::Kind, transfer_control::Message, transfer_reply::Reply,
};
use ds_tests::{Cloud, cloud::What, mover::Way};
use ds_wire::{CHUNK_BYTES, ChunkHeader, Digester, Form, TransferId};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Chunks that a receiver holds at most.
pub(crate) const WINDOW_CHUNKS: u64 = 64;

/// For an answer of the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two attempts to be let in.
const PAUSE: Duration = Duration::from_millis(50);

/// What it pushes is a clone of a first snapshot at the store.
pub(crate) struct Attacker {
    pub(crate) id: NodeId,
    endpoint: Endpoint,
    what: What,
    base_guid: u64,
}

/// A transfer that it opened.
pub(crate) struct Opened {
    pub(crate) control: Control,
    link: Link,
    transfer: TransferId,
    /// Kept and not read.
    _chunks: Chunks,
}

impl Attacker {
    pub(crate) async fn create(cloud: &Cloud) -> Result<Self> {
        let id = NodeId(Uuid::new_v4());
        let endpoint = Endpoint::client(&cloud.ca.issue(Role::Runner, id)?)?;
        let (volume, base) = (VolumeId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
        let base_guid = cloud.hub()?.create_volume(volume, base).await?.0;
        let what = What { volume, snapshot: SnapshotId(Uuid::new_v4()), base: Some(base) };
        Ok(Self { id, endpoint, what, base_guid })
    }

    pub(crate) fn what(&self) -> What {
        self.what
    }

    /// A push that is let in.
    pub(crate) async fn push(&self, cloud: &Cloud) -> Result<Opened> {
        loop {
            let ticket = cloud.ticket(self.id, Way::Push, self.what)?;
            let mut opened = self.push_with(&self.link(cloud).await?, ticket).await?;
            match opened.reply().await? {
                Reply::Accept(_) => {
                    let decided = TransferControl { message: Some(Message::Plan(self.plan()?)) };
                    opened.control.send.send(&decided).await?;
                    return Ok(opened);
                }
                // What it did before is still being cleaned up.
                Reply::Abort(abort) if abort.code() == AbortCode::Busy => sleep(PAUSE).await,
                other => bail!("not let in: {other:?}"),
            }
        }
    }

    /// A push whose answer is not read.
    pub(crate) async fn push_with(&self, link: &Link, ticket: SignedTicket) -> Result<Opened> {
        open(link, ticket, Some(self.plan()?)).await
    }

    fn plan(&self) -> Result<Plan> {
        let base = self.what.base.context("it has a base")?;
        Ok(Plan { guid: 1, base: base.to_bytes(), base_guid: self.base_guid, clone: true, ..Plan::default() })
    }

    /// A pull that is let in, and of which nothing is read.
    pub(crate) async fn pull(&self, cloud: &Cloud, what: What) -> Result<Opened> {
        let ticket = cloud.ticket(self.id, Way::Pull, what)?;
        let mut opened = open(&self.link(cloud).await?, ticket, None).await?;
        opened.let_in().await?;
        Ok(opened)
    }

    pub(crate) async fn link(&self, cloud: &Cloud) -> Result<Link> {
        Ok(self.endpoint.connect(cloud.address, cloud.stored.id).await?)
    }
}

async fn open(link: &Link, ticket: SignedTicket, plan: Option<Plan>) -> Result<Opened> {
    let transfer = TransferId(Uuid::new_v4().into_bytes());
    let open =
        TransferOpen { transfer: transfer.0.to_vec(), ticket: Some(ticket), plan, ..Default::default() };
    let chunks = link.chunks(transfer.0);
    let control = link.open(&StreamOpen { kind: Some(Kind::Transfer(open)) }).await?;
    Ok(Opened { control, link: link.clone(), transfer, _chunks: chunks })
}

impl Opened {
    async fn reply(&mut self) -> Result<Reply> {
        let reply = timeout(PATIENCE, self.control.recv.recv::<TransferReply>()).await??;
        reply.and_then(|reply| reply.reply).context("an answer")
    }

    /// Waits until the store has accepted it.
    pub(crate) async fn let_in(&mut self) -> Result<()> {
        let reply = self.reply().await?;
        ensure!(matches!(reply, Reply::Accept(_)), "not let in: {reply:?}");
        Ok(())
    }

    /// Sends a chunk with this index, at the place of another. Errors are those of a store that cut us off already.
    pub(crate) async fn chunk(&mut self, index: u64, place: u64, payload: &Bytes) {
        let header = ChunkHeader {
            transfer: self.transfer,
            index,
            offset: place * CHUNK_BYTES as u64,
            length: u32::try_from(payload.len()).expect("a chunk's length fits"),
            digest: Digester::new(self.transfer).of(index, payload),
            form: Form::Plain,
        };
        let header = header.encode();
        let _ = timeout(PATIENCE, self.link.send_chunk(&header, payload.clone())).await;
    }

    /// Waits for the store's word that it is over.
    pub(crate) async fn refused_as(mut self, codes: &[AbortCode], attack: &str) -> Result<()> {
        loop {
            let said = timeout(PATIENCE, self.control.recv.recv::<TransferControl>()).await;
            match said.with_context(|| format!("{attack}: nobody objects"))??.and_then(|c| c.message) {
                Some(Message::Abort(abort)) => {
                    ensure!(codes.contains(&abort.code()), "{attack}: {abort:?}");
                    ensure!(!abort.message.is_empty(), "{attack}: no reason is given");
                    return Ok(());
                }
                Some(Message::Ack(_)) => {}
                other => bail!("{attack}: {other:?}"),
            }
        }
    }

    /// The same where the ticket is the reason.
    pub(crate) async fn refused_at_once(mut self, reason: &str) -> Result<()> {
        match self.reply().await? {
            Reply::Abort(abort) if abort.code() == AbortCode::Ticket && abort.message.contains(reason) => {
                Ok(())
            }
            other => bail!("{reason:?} is to be the reason: {other:?}"),
        }
    }
}
