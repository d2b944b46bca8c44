//! The node whose transfers have to go on.

use std::{
    fmt,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ds_domain::ids::{SnapshotId, TaskId, VolumeId};
use ds_tests::{
    Cloud, Dice, Relay,
    cloud::What,
    mover::{End, Way},
    worker::Said,
};
use tokio::time::{interval, timeout};
use uuid::Uuid;

use crate::MIB;

/// Memory that its own transfer takes at the store: a window at most.
pub(crate) const COST: u64 = 64 * MIB;

/// Bytes of each snapshot.
const BYTES: u64 = 4 * MIB;

/// Far more than a transfer takes on a machine that is busy; below what a person would wait for.
const PATIENCE: Duration = Duration::from_mins(1);

/// It has an address of its own, so that a limit for each address is not its limit.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What was seen while an attack went on.
pub(crate) struct Seen {
    /// By how much the store's memory grew at most.
    pub(crate) grown: u64,
    pub(crate) transfers: u32,
    slowest: Duration,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grown, transfers, slowest } = self;
        write!(f, "{} MiB, while {transfers} honest transfers took {slowest:.1?} at most", grown / MIB)
    }
}

/// Pushes snapshot after snapshot until the attack is over, at least one, and watches the store's memory.
pub(crate) async fn beside(cloud: &Cloud, attack: impl Future<Output = Result<()>>) -> Result<Seen> {
    let before = cloud.store_memory()?;
    let mut seen = Seen { grown: 0, transfers: 0, slowest: Duration::ZERO };
    let mut grown = 0;
    let mut attack = Box::pin(attack);
    let mut over = false;
    while !over || seen.transfers == 0 {
        let start = Instant::now();
        let mut pushing = Box::pin(push(cloud, BYTES));
        let mut looks = interval(Duration::from_millis(20));
        let pushed = loop {
            tokio::select! {
                pushed = &mut pushing => break pushed,
                result = &mut attack, if !over => {
                    result?;
                    over = true;
                }
                _ = looks.tick() => grown = grown.max(cloud.store_memory()?.saturating_sub(before)),
            }
        };
        pushed.context("an honest node's transfer")?;
        seen.transfers += 1;
        seen.slowest = seen.slowest.max(start.elapsed());
    }
    seen.grown = grown;
    Ok(seen)
}

/// Pushes a new volume with so many bytes in one attempt.
pub(crate) async fn push(cloud: &Cloud, bytes: u64) -> Result<What> {
    let what = What { volume: VolumeId(Uuid::new_v4()), snapshot: SnapshotId(Uuid::new_v4()), base: None };
    let (volumes, first, task) = (&cloud.author.volumes, SnapshotId(Uuid::new_v4()), TaskId(Uuid::new_v4()));
    volumes.create(what.volume, first).await?;
    let folder = volumes.clone_for_task(task, what.volume, first).await?;
    std::fs::write(folder.join("data"), Dice::new(bytes).noise(usize::try_from(bytes)?))?;
    volumes.snapshot_task(task, what.volume, what.snapshot).await?;
    let path = Relay::leaving_from(ADDRESS, cloud.address, 0).await?;
    let mut worker = cloud.mover(Way::Push, what, &path)?;
    let end = async {
        loop {
            if let Said::Ended(end) = worker.next().await? {
                return anyhow::Ok(end);
            }
        }
    };
    match timeout(PATIENCE, end).await.context("it does not end")?? {
        Some(End::Done) => {}
        end => bail!("it ended with {end:?}"),
    }
    let stored = cloud.stored.volumes.find(what.volume, what.snapshot).await?;
    ensure!(stored.is_some(), "it is said to be stored and is not");
    Ok(what)
}
