//! A large dataset, of which no end has as much memory, arrives identical though both ends are killed under way.
//!
//! Not part of `./check`. By hand, with twice as much room on the disk as the gibibytes that it names:
//! `DS_LARGE_GIB=20 cargo nextest run --release -p ds-tests --test large --run-ignored all --no-capture`

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ds_domain::ids::{SnapshotId, TaskId, VolumeId};
use ds_tests::{
    Cloud, Dice,
    cloud::What,
    mover::{End, Way},
    number, trees,
    worker::{Said, Worker},
};
use tokio::time::sleep;
use uuid::Uuid;

const GIB: u64 = 1 << 30;
const FILE_BYTES: u64 = 256 << 20;
const PIECE_BYTES: usize = 4 << 20;

/// Between two attempts: what was killed is noticed and cleaned up at the other end.
const PAUSE: Duration = Duration::from_secs(1);

/// Far more than the two kills need.
const MOST_ATTEMPTS: u32 = 60;

/// What each end may take: a window, and what goes through.
const MEMORY_BYTES: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "moves gigabytes, for minutes: see the head of the file"]
async fn a_large_dataset_arrives_though_both_ends_are_killed() -> Result<()> {
    let gibibytes = number("DS_LARGE_GIB").unwrap_or(20);
    let bytes = gibibytes * GIB;
    // ZFS keeps some of a pool for itself.
    let mut cloud = Cloud::with_pools_of(gibibytes * 1_200 + 512, gibibytes).await?;
    let what = make(&cloud, bytes).await?;
    let path = cloud.path(gibibytes).await?;
    let mut largest = Memory::default();

    let worker = cloud.mover(Way::Push, what, &path)?;
    let (worker, _) = until(worker, bytes / 3, &cloud, &mut largest).await?;
    worker.context("the first attempt ended before it was killed")?.kill().await?;
    println!("killed the sender at a third");

    let worker = attempt(&cloud, what, &path, &mut largest, bytes / 2).await?;
    let worker = worker.context("the second attempt ended before the store was killed")?;
    cloud.kill_store().await?;
    cloud.start_store().await?;
    println!("killed the store at half");
    until(worker, u64::MAX, &cloud, &mut largest).await?;

    let start = Instant::now();
    ensure!(attempt(&cloud, what, &path, &mut largest, u64::MAX).await?.is_none(), "it is not over");
    let seconds = start.elapsed().as_secs_f64();
    println!("the rest in {seconds:.0} s, {:.0} MB/s of the whole", bytes as f64 / 1e6 / seconds);

    compare(&cloud, what).await?;
    println!(
        "{gibibytes} GiB are identical; {} MiB at the sender, {} MiB at the store",
        largest.sender >> 20,
        largest.store >> 20
    );
    ensure!(
        largest.sender.max(largest.store) < MEMORY_BYTES,
        "an end took more than {} MiB",
        MEMORY_BYTES >> 20
    );
    Ok(())
}

#[derive(Default)]
struct Memory {
    sender: u64,
    store: u64,
}

/// A volume with files that no pool compresses, made from a seed.
async fn make(cloud: &Cloud, bytes: u64) -> Result<What> {
    let what = What { volume: VolumeId(Uuid::new_v4()), snapshot: SnapshotId(Uuid::new_v4()), base: None };
    let (volumes, first, task) = (&cloud.author.volumes, SnapshotId(Uuid::new_v4()), TaskId(Uuid::new_v4()));
    volumes.create(what.volume, first).await?;
    let folder = volumes.clone_for_task(task, what.volume, first).await?;
    let mut dice = Dice::new(bytes);
    for number in 0..bytes / FILE_BYTES {
        let mut file = File::create(folder.join(format!("file-{number:05}")))?;
        for _ in 0..FILE_BYTES / PIECE_BYTES as u64 {
            file.write_all(&dice.noise(PIECE_BYTES))?;
        }
    }
    volumes.snapshot_task(task, what.volume, what.snapshot).await?;
    volumes.advance(what.volume, what.snapshot).await?;
    volumes.drop_task(task).await?;
    Ok(what)
}

/// As many attempts as it takes until one has so much written, which goes on, or is done.
async fn attempt(
    cloud: &Cloud,
    what: What,
    path: &ds_tests::Relay,
    largest: &mut Memory,
    enough: u64,
) -> Result<Option<Worker>> {
    for _ in 0..MOST_ATTEMPTS {
        let worker = cloud.mover(Way::Push, what, path)?;
        match until(worker, enough, cloud, largest).await? {
            (Some(worker), _) => return Ok(Some(worker)),
            (None, Some(End::Done)) => return Ok(None),
            // An end that was killed is noticed after the silence of its link.
            (None, Some(End::Failed { retryable: true, .. }) | None) => sleep(PAUSE).await,
            (None, Some(End::Failed { kind, text, .. })) => bail!("{kind}: {text}"),
        }
    }
    bail!("not there after {MOST_ATTEMPTS} attempts")
}

/// The worker, once so much is written; nothing of one that has ended, but how.
async fn until(
    mut worker: Worker,
    enough: u64,
    cloud: &Cloud,
    largest: &mut Memory,
) -> Result<(Option<Worker>, Option<End>)> {
    loop {
        match worker.next().await? {
            Said::Written(bytes) => {
                // It may just have ended.
                largest.sender = largest.sender.max(worker.memory().unwrap_or(0));
                largest.store = largest.store.max(cloud.store_memory()?);
                if bytes >= enough {
                    return Ok((Some(worker), None));
                }
            }
            Said::Ended(end) => return Ok((None, end)),
        }
    }
}

async fn compare(cloud: &Cloud, What { volume, snapshot, .. }: What) -> Result<()> {
    let (ours, theirs) = (&cloud.author.volumes, &cloud.stored.volumes);
    let (sent, stored) = (ours.find(volume, snapshot).await?, theirs.find(volume, snapshot).await?);
    ensure!(sent.map(|s| s.guid) == stored.map(|s| s.guid), "it has another GUID at the store");
    let folders =
        (ours.reading_clone(volume, snapshot).await?, theirs.reading_clone(volume, snapshot).await?);
    trees::compare(&folders.0, &folders.1)?;
    ours.drop_reading_clone(snapshot).await?;
    Ok(theirs.drop_reading_clone(snapshot).await?)
}
