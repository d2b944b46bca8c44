//! A throw-away pool in a file, with volumes on it.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use ds_domain::ids::{SnapshotId, TaskId, VolumeId};
use ds_zfs::{
    BEGIN_BYTES, Have, Intake, Receiving, SendPlan, Sending, SnapshotGuid, StreamReader, Volumes, plan_send,
};
use tempfile::TempDir;
use uuid::Uuid;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Destroyed with all that is on it when dropped.
pub(crate) struct Pool {
    pub name: String,
    pub folder: TempDir,
}

impl Pool {
    pub(crate) async fn create(size_mib: u64) -> Self {
        let name = format!("dstest{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().unwrap();
        let pool = Self { name, folder };
        ds_zfs::create_file_pool(&pool.name, &pool.file(), size_mib << 20).await.unwrap();
        pool
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    pub(crate) async fn volumes(&self) -> Volumes {
        Volumes::open(&format!("{}/store", self.name), &self.folder.path().join("mnt")).await.unwrap()
    }

    /// All datasets and snapshots, without the pool's name.
    pub(crate) fn names(&self) -> Vec<String> {
        let listing = zfs(&["list", "-H", "-r", "-t", "all", "-o", "name", &format!("{}/store", self.name)]);
        listing.lines().map(|name| name.trim_start_matches(&self.name).to_owned()).collect()
    }

    pub(crate) fn dataset(&self, below_root: &str) -> String {
        format!("{}/store/{below_root}", self.name)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A send or receive that was ended a moment ago may still let go.
        for _ in 0..50 {
            let destroyed = Command::new("zpool").args(["destroy", "-f", &self.name]).output();
            let gone = |said: &[u8]| String::from_utf8_lossy(said).contains("no such pool");
            if destroyed.is_ok_and(|output| output.status.success() || gone(&output.stderr)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// `zfs` by hand.
pub(crate) fn zfs(arguments: &[&str]) -> String {
    let output = Command::new("zfs").env("LC_ALL", "C").args(arguments).output().unwrap();
    assert!(output.status.success(), "zfs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes that do not compress, the same in each run.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}

pub(crate) async fn two_pools(second_mib: u64) -> (Pool, Pool, Volumes, Volumes) {
    // OpenZFS keeps up to half of a small pool for itself.
    let (one, two) = (Pool::create(256).await, Pool::create(second_mib).await);
    let (from, to) = (one.volumes().await, two.volumes().await);
    (one, two, from, to)
}

pub(crate) async fn begin(from: &Volumes) -> (VolumeId, SnapshotId) {
    let (volume, first) = (volume(), snapshot());
    from.create(volume, first).await.unwrap();
    (volume, first)
}

pub(crate) fn volume() -> VolumeId {
    VolumeId(Uuid::new_v4())
}

pub(crate) fn snapshot() -> SnapshotId {
    SnapshotId(Uuid::new_v4())
}

pub(crate) fn task() -> TaskId {
    TaskId(Uuid::new_v4())
}

/// Works on a clone of `base` as a task would, and snapshots it.
pub(crate) async fn work(
    volumes: &Volumes,
    volume: VolumeId,
    base: SnapshotId,
    file: &str,
    content: &[u8],
) -> (TaskId, SnapshotId) {
    let (task, result) = (task(), snapshot());
    let home = volumes.clone_for_task(task, volume, base).await.unwrap();
    std::fs::write(home.join(file), content).unwrap();
    volumes.snapshot_task(task, volume, result).await.unwrap();
    (task, result)
}

/// Works on `base`, and makes the result the main line's newest.
pub(crate) async fn commit(
    volumes: &Volumes,
    volume: VolumeId,
    base: SnapshotId,
    file: &str,
    content: &[u8],
) -> SnapshotId {
    let (task, result) = work(volumes, volume, base, file, content).await;
    volumes.advance(volume, result).await.unwrap();
    volumes.drop_task(task).await.unwrap();
    result
}

pub(crate) async fn plan(from: &Volumes, to: &Volumes, volume: VolumeId, snapshot: SnapshotId) -> SendPlan {
    let ours = from.snapshots(volume).await.unwrap();
    let theirs: Vec<Have> = to.snapshots(volume).await.unwrap().iter().map(Have::from).collect();
    let target = ours.iter().find(|ours| ours.id == snapshot).expect("the sender has it");
    plan_send(target, &ours, &theirs)
}

/// Whether this machine's ZFS has what a test needs; else it says why the test is skipped.
pub(crate) fn has(feature: bool, what: &str) -> bool {
    if !feature {
        println!("skipped: this machine's ZFS has no {what}");
    }
    feature
}

/// Runs one planned stream from pipe to pipe.
pub(crate) async fn transfer(from: &Volumes, to: &Volumes, plan: &SendPlan) -> ds_zfs::Result<SnapshotGuid> {
    let sending = from.send(plan).await?;
    connect(sending, to.receive(plan).await?).await
}

pub(crate) async fn connect(sending: Sending, intake: Intake) -> ds_zfs::Result<SnapshotGuid> {
    let (source, receiving) = let_in(intake, sending.stdout.into()).await?;
    let (copied, stream) = pass(source, receiving.stdin.into(), receiving.stream).await;
    let sent = sending.process.finish().await;
    let received = receiving.process.finish(&stream).await?;
    copied.expect("both ends went well");
    sent?;
    Ok(received)
}

/// Lets the beginning of a stream in; gives the rest.
pub(crate) async fn let_in(
    intake: Intake,
    mut stream: std::fs::File,
) -> ds_zfs::Result<(std::fs::File, Receiving)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut beginning = [0; BEGIN_BYTES];
        stream.read_exact(&mut beginning).unwrap();
        (stream, beginning)
    });
    let (stream, beginning) = reading.await.unwrap();
    Ok((stream, intake.begin(&beginning)?))
}

/// Copies the rest of a stream past its reader.
pub(crate) async fn pass(
    mut from: std::fs::File,
    mut to: std::fs::File,
    mut stream: StreamReader,
) -> (std::io::Result<()>, StreamReader) {
    let copying = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; 64 << 10];
        let mut copy = || loop {
            match from.read(&mut piece)? {
                0 => return Ok(()),
                length => {
                    stream.push(&piece[..length]).map_err(std::io::Error::other)?;
                    to.write_all(&piece[..length])?;
                }
            }
        };
        let copied = copy();
        (copied, stream)
    });
    copying.await.unwrap()
}

pub(crate) fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}
