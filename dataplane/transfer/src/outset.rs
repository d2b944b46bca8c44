//! What each end does before the first byte of a stream and after its last: the receiving one says what it has
//! ([`reception`]), the sending one decides ([`Outset`]) and keeps what it sends, and the receiving one makes room
//! ([`make_room`]).

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_proto::v1;
use ds_wire::TransferId;
use ds_zfs::{Guard, Intake, SendPlan, Sending, Volumes};
use uuid::Uuid;

use crate::{
    Result,
    error::in_full,
    plans::{self, Reception, Start},
};

/// Bookmarks that are kept of one filesystem; the oldest go first. Each stands for a receiver that may come back for
/// more when the snapshot is gone.
const MOST_BOOKMARKS: usize = 64;

/// What is here of the volume, and of `snapshot` where an earlier receive of it broke off.
pub(crate) async fn reception(
    volumes: &Volumes,
    volume: VolumeId,
    snapshot: SnapshotId,
) -> Result<Reception> {
    let token = volumes.resumable(volume, snapshot).await?;
    Ok(Reception {
        have: volumes.haves(volume).await?,
        streams: volumes.features().streams(),
        token: token.map(|token| token.as_str().to_owned()),
    })
}

/// Room for the stream that the sender decided on. If it begins anew, what was half received of it is dropped.
pub(crate) async fn make_room(volumes: &Volumes, plan: &SendPlan, start: Start) -> Result<Intake> {
    match start {
        Start::Resumed => Ok(volumes.receive_resumed(plan).await?),
        Start::Anew => {
            volumes.discard_partial(plan.volume, plan.snapshot).await?;
            Ok(volumes.receive(plan).await?)
        }
    }
}

/// A stream that has started, and what it is made of.
pub(crate) struct Outset {
    pub(crate) process: Sending,
    pub(crate) plan: SendPlan,
    start: Start,
    /// Bytes that will be sent, where ZFS knows.
    pub(crate) estimate: Option<u64>,
    pub(crate) kept: Kept,
}

impl Outset {
    /// Starts the planned stream, from where the receiver's part of it ends if it has one of this very stream.
    pub(crate) async fn send(
        volumes: &Volumes,
        plan: SendPlan,
        receiver: &Reception,
        transfer: TransferId,
    ) -> Result<Self> {
        let name = Uuid::from_bytes(transfer.0).simple().to_string();
        let guard = volumes.guard(&plan, &name).await?;
        let kept = Kept { volumes: volumes.clone(), plan, guard };
        let estimate = volumes.estimate(&plan).await?;
        if let Some((process, there)) = resume(volumes, &plan, receiver.token.as_deref()).await? {
            tracing::info!(snapshot.id = %plan.snapshot, size_bytes = there, "going on where an earlier transfer broke off");
            let estimate = estimate.map(|all| all.saturating_sub(there));
            return Ok(Self { process, plan, start: Start::Resumed, estimate, kept });
        }
        let process = volumes.send(&plan).await?;
        Ok(Self { process, plan, start: Start::Anew, estimate, kept })
    }

    /// What the receiver is told.
    pub(crate) fn to_proto(&self) -> v1::Plan {
        plans::to_proto(&self.plan, self.start, self.estimate)
    }
}

/// The rest of a stream, with the bytes of it that are there; `None` if it has to begin anew.
async fn resume(volumes: &Volumes, plan: &SendPlan, token: Option<&str>) -> Result<Option<(Sending, u64)>> {
    let Some(text) = token else { return Ok(None) };
    let Some(token) = volumes.read_token(text).await? else { return Ok(None) };
    match volumes.send_resumed(plan, text).await {
        Ok(process) => Ok(Some((process, token.bytes))),
        Err(ds_zfs::Error::StaleToken { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is kept at the sender while its stream is under way.
pub(crate) struct Kept {
    volumes: Volumes,
    plan: SendPlan,
    guard: Guard,
}

impl Kept {
    /// Lets go of it. What has arrived is common ground from now on, and is remembered as such also when the snapshot
    /// is gone.
    pub(crate) async fn end<T>(self, result: &Result<T>) {
        let Self { volumes, plan, guard } = self;
        let ended = async {
            if result.is_ok() {
                volumes.bookmark(plan.volume, plan.snapshot).await?;
                volumes.limit_bookmarks(plan.volume, MOST_BOOKMARKS).await?;
            }
            guard.release().await
        };
        if let Err(error) = ended.await {
            // The transfer ended as it did. The next one may have to send more than it need.
            tracing::warn!(snapshot.id = %plan.snapshot, error = in_full(&error), "the sender's books are not in order");
        }
    }
}
