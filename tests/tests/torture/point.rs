//! One point: a snapshot is made, moved while something befalls it, and looked at.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ds_domain::ids::{SnapshotId, TaskId, VolumeId};
use ds_link::{Transport, Transports};
use ds_tests::{
    Cloud, Dice, Relay, Weather,
    cloud::{Node, What},
    mover::{End, Way},
    trees,
    worker::{Said, Worker},
};
use ds_zfs::SnapshotGuid;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    edits,
    plan::{Fault, Moment, Plan, VolumeIs},
    traces,
};

/// Snapshots of a volume before the next one begins.
const LONGEST_LINE: usize = 8;

/// For what ends by itself, but not at once.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

const QUIC: Transports = Transports::Only(Transport::Quic);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// What the loss of a link may cost.
const WINDOW_BYTES: u64 = 64 << 20;

/// A cloud with the volume that is on its way.
pub(crate) struct Tortured {
    pub(crate) cloud: Cloud,
    pub(crate) counts: Counts,
    line: Option<Line>,
}

/// A volume.
struct Line {
    volume: VolumeId,
    /// The newest at the author, from which work goes on.
    tip: SnapshotId,
    /// What the store has said that it has.
    acknowledged: Vec<(SnapshotId, SnapshotGuid)>,
}

/// What came together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    hit: u32,
    acknowledged: u32,
    volumes: u32,
    attempts: u32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hit, acknowledged, volumes, attempts } = self;
        write!(
            f,
            "{hit} faults hit a transfer, {acknowledged} snapshots of {volumes} volumes in {attempts} attempts"
        )
    }
}

/// Whether a fault came before the transfer's end, and after how many attempts it was through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    hit: bool,
    attempts: u32,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.hit { "hit   " } else { "missed" }, self.attempts)
    }
}

/// A first attempt that went as far as it could.
struct Struck {
    hit: bool,
    /// Nothing where the client was killed.
    end: Option<End>,
    written: u64,
}

impl Tortured {
    pub(crate) fn new(cloud: Cloud) -> Self {
        Self { cloud, counts: Counts::default(), line: None }
    }

    pub(crate) async fn point(&mut self, plan: &Plan) -> Result<Outcome> {
        let mut dice = Dice::new(plan.seed);
        let old = self.line.as_ref().is_some_and(|line| line.acknowledged.len() >= LONGEST_LINE);
        if plan.volume == VolumeIs::New || old || self.line.is_none() {
            self.end_line().await?;
            self.begin_line().await?;
        }
        let (task, snapshot, guid) = self.work(plan.bytes, &mut dice).await?;
        let befalls = |way| Some(plan).filter(|plan| plan.way == way && plan.fault.is_of_a_transfer());
        let mut outcome =
            self.move_one(Way::Push, snapshot, befalls(Way::Push), &mut dice).await.context("push")?;
        let cut_off = self.acknowledge(task, (snapshot, guid), plan.fault).await?;
        if plan.way == Way::Pull {
            outcome =
                self.move_one(Way::Pull, snapshot, befalls(Way::Pull), &mut dice).await.context("pull")?;
            let line = self.line();
            self.cloud.replica.volumes.advance(line.volume, snapshot).await.context("advance the replica")?;
        }
        self.verify(plan.way, snapshot).await?;
        outcome.hit |= cut_off;
        self.counts.hit += u32::from(outcome.hit);
        Ok(outcome)
    }

    /// Drops what is there and sees that nothing else is.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.end_line().await?;
        traces::empty(&self.cloud)
    }

    async fn begin_line(&mut self) -> Result<()> {
        let (volume, tip) = (VolumeId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
        self.cloud.author.volumes.create(volume, tip).await?;
        self.counts.volumes += 1;
        self.line = Some(Line { volume, tip, acknowledged: Vec::new() });
        Ok(())
    }

    async fn end_line(&mut self) -> Result<()> {
        traces::at_rest(&self.cloud).await?;
        let Some(Line { volume, .. }) = self.line.take() else { return Ok(()) };
        self.cloud.hub()?.drop_volume(volume).await?;
        for node in [&self.cloud.author, &self.cloud.replica] {
            node.volumes.drop_volume(volume).await?;
        }
        Ok(())
    }

    fn line(&self) -> &Line {
        self.line.as_ref().expect("a point begins with one")
    }

    /// What a task does: clone, write, snapshot.
    async fn work(&self, bytes: u64, dice: &mut Dice) -> Result<(TaskId, SnapshotId, SnapshotGuid)> {
        let (line, volumes) = (self.line(), &self.cloud.author.volumes);
        let (task, snapshot) = (TaskId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
        let folder = volumes.clone_for_task(task, line.volume, line.tip).await?;
        edits::edit(&folder, bytes, dice)?;
        let guid = volumes.snapshot_task(task, line.volume, snapshot).await?;
        Ok((task, snapshot, guid))
    }

    /// Moves a snapshot, in as many attempts as it takes; the first one meets the plan's fault.
    async fn move_one(
        &mut self,
        way: Way,
        snapshot: SnapshotId,
        plan: Option<&Plan>,
        dice: &mut Dice,
    ) -> Result<Outcome> {
        let path = self.cloud.path(dice.any()).await?;
        let Line { volume, acknowledged, .. } = self.line();
        let what = What { volume: *volume, snapshot, base: acknowledged.last().map(|(base, _)| *base) };
        let (start, mut attempts, mut hit) = (Instant::now(), 0, false);
        loop {
            attempts += 1;
            self.counts.attempts += 1;
            let over = plan.map_or(Transports::Auto, |plan| plan.over);
            let worker = self.cloud.mover_over(over, way, what, &path)?;
            let end = match plan {
                Some(plan) if attempts == 1 => {
                    let struck = self.strike(worker, plan, &path, dice).await?;
                    hit = struck.hit;
                    judge(plan, &struck, &path)?;
                    self.cloud.ends(way).1.make_room()?;
                    struck.end
                }
                _ => until_end(worker, &mut 0).await?,
            };
            match end {
                Some(End::Done) => return Ok(Outcome { hit, attempts }),
                Some(End::Failed { kind, retryable: false, text }) if kind != "Full" => {
                    bail!("{kind}: {text}")
                }
                last if start.elapsed() > PATIENCE => {
                    bail!("not there after {} s and {attempts} attempts: {last:?}", PATIENCE.as_secs())
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Waits for the moment, does what is planned, and waits for the end.
    async fn strike(&mut self, worker: Worker, plan: &Plan, path: &Relay, dice: &mut Dice) -> Result<Struck> {
        let (mut worker, mut written) = (worker, 0);
        if let Fault::Storm(weather) = plan.fault {
            path.set(weather);
        }
        if let Some(end) = until_moment(&mut worker, plan.moment, &mut written).await? {
            return Ok(Struck { hit: false, end, written });
        }
        match plan.fault {
            Fault::KillClient => {
                worker.kill().await?;
                return Ok(Struck { hit: true, end: None, written });
            }
            Fault::KillBoth => {
                worker.kill().await?;
                self.cloud.kill_store().await?;
                self.cloud.start_store().await?;
                return Ok(Struck { hit: true, end: None, written });
            }
            Fault::KillStore(pause) => {
                self.cloud.kill_store().await?;
                sleep(pause).await;
                self.cloud.start_store().await?;
            }
            Fault::ForgetFlows => path.forget_flows(),
            Fault::SwallowFlows => path.swallow_flows(),
            Fault::Silence(time) => {
                path.set(Weather::SILENT);
                sleep(time).await;
                path.set(Weather::CLEAR);
            }
            Fault::Storm(_) | Fault::KillAdvance(_) => {}
            Fault::FillDisk => self.cloud.ends(plan.way).1.fill(dice.below(plan.bytes / 4 + 1))?,
        }
        let end = until_end(worker, &mut written).await?;
        Ok(Struck { hit: true, end, written })
    }

    /// The hub has the receipt: the head moves, at the store and at the author. Gives whether a kill cut that off.
    async fn acknowledge(
        &mut self,
        task: TaskId,
        (snapshot, guid): (SnapshotId, SnapshotGuid),
        fault: Fault,
    ) -> Result<bool> {
        let volume = self.line().volume;
        let mut cut_off = false;
        if let Fault::KillAdvance(after) = fault {
            let hub = self.cloud.hub()?;
            cut_off = timeout(after, hub.advance(volume, snapshot)).await.is_err();
            self.cloud.kill_store().await?;
            self.cloud.start_store().await?;
        }
        self.cloud.hub()?.advance(volume, snapshot).await.context("advance the store")?;
        let author = &self.cloud.author.volumes;
        author.advance(volume, snapshot).await.context("advance the author")?;
        author.drop_task(task).await?;
        let line = self.line.as_mut().expect("a point begins with one");
        line.acknowledged.push((snapshot, guid));
        line.tip = snapshot;
        self.counts.acknowledged += 1;
        Ok(cut_off)
    }

    /// All that was acknowledged is at the store, the new snapshot's files are equal, and nothing else is there.
    async fn verify(&self, way: Way, snapshot: SnapshotId) -> Result<()> {
        let Line { volume, acknowledged, .. } = self.line();
        let stored = self.cloud.hub()?.list_snapshots(*volume).await?;
        for (id, guid) in acknowledged {
            let there = stored.iter().any(|s| s.snapshot == id.to_bytes() && s.guid == guid.0);
            ensure!(
                there,
                "the store acknowledged snapshot {id} and has it no more, or another one: {stored:?}"
            );
        }
        let guid = acknowledged.last().map(|(_, guid)| *guid);
        let (author, far_end) = (&self.cloud.author, self.cloud.ends(way).1);
        let received = far_end.volumes.find(*volume, snapshot).await?;
        ensure!(received.map(|s| s.guid) == guid, "it has another GUID at the receiver");
        equal_trees(author, far_end, *volume, snapshot).await?;
        traces::one_line_each(&self.cloud, *volume).await
    }
}

/// Waits for the end of an attempt.
async fn until_end(mut worker: Worker, written: &mut u64) -> Result<Option<End>> {
    let end = async {
        loop {
            match worker.next().await? {
                Said::Written(bytes) => *written = bytes,
                Said::Ended(end) => return Ok(end),
            }
        }
    };
    timeout(PATIENCE, end).await.context("an attempt does not end")?
}

/// Something if the attempt ended before the moment.
async fn until_moment(worker: &mut Worker, moment: Moment, written: &mut u64) -> Result<Option<Option<End>>> {
    let (wait, enough) = match moment {
        Moment::After(time) => (time, u64::MAX),
        Moment::Written(bytes) => (PATIENCE, bytes),
    };
    let moment = async {
        while *written < enough {
            match worker.next().await? {
                Said::Written(bytes) => *written = bytes,
                Said::Ended(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    };
    match (timeout(wait, moment).await, moment_is_a_time(enough)) {
        (Ok(ended), _) => ended,
        (Err(_), true) => Ok(None),
        (Err(_), false) => bail!("{written} bytes are written after {} s", wait.as_secs()),
    }
}

fn moment_is_a_time(enough: u64) -> bool {
    enough == u64::MAX
}

/// What the first attempt must have come to.
fn judge(plan: &Plan, struck: &Struck, path: &Relay) -> Result<()> {
    match (plan.fault, &struck.end) {
        (Fault::FillDisk, Some(End::Failed { kind, text, .. })) => {
            ensure!(kind == "Full", "a full disk is said to be {kind}: {text}");
        }
        // On TCP damage costs a link, and before a transfer was let in that is its end.
        (Fault::Storm(weather), _) if weather.damaged > 0 && plan.over != QUIC => {}
        (
            Fault::ForgetFlows | Fault::SwallowFlows | Fault::Silence(_) | Fault::Storm(_),
            Some(End::Failed { kind, text, .. }),
        ) => {
            bail!("a transfer did not survive its network: {kind}: {text}");
        }
        (Fault::ForgetFlows | Fault::SwallowFlows, Some(End::Done)) if struck.hit => {
            let carried = match plan.way {
                Way::Push => path.bytes_towards_target(),
                Way::Pull => path.bytes_from_target(),
            };
            // Headers of packets and chunks, acknowledgements, and the last step that was not said.
            let once = struck.written + struck.written / 16 + (1 << 20);
            ensure!(
                carried <= once + WINDOW_BYTES,
                "{carried} bytes crossed for a stream of {}",
                struck.written
            );
        }
        _ => {}
    }
    Ok(())
}

async fn equal_trees(one: &Node, other: &Node, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
    let (a, b) = (
        one.volumes.reading_clone(volume, snapshot).await?,
        other.volumes.reading_clone(volume, snapshot).await?,
    );
    trees::compare(&a, &b)?;
    one.volumes.drop_reading_clone(snapshot).await?;
    Ok(other.volumes.drop_reading_clone(snapshot).await?)
}
