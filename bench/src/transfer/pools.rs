//! From one pool to another: through ours, against a pipe that goes straight from `zfs send` to `zfs receive`.
//!
//! Both pools are files of this machine, so ZFS itself is what either way waits for most; the ratio says what ours adds to it.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{
    network::Network,
    payload::wide_pipe,
    peers::{Ground, OURS},
    process::{now, wait_all},
};
use crate::{
    Scale,
    report::{Better, Measurement, quantile},
};

/// Until one stream must have passed.
const PATIENCE: Duration = Duration::from_mins(10);
/// What a pool needs beside its data.
const SPARE_BYTES: u64 = 512 << 20;
/// How often a pool that something still uses is asked to go, 100 ms apart.
const ATTEMPTS_TO_DESTROY: usize = 100;

/// How a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    Pipe,
}

pub(crate) fn measure(ground: &Ground, network: &Network, scale: Scale) -> Result<Measurement> {
    let (bytes, rounds) = match scale {
        Scale::Full => (1 << 30, 5),
        Scale::Quick => (128 << 20, 2),
    };
    let (from, to) = (Pool::create(bytes)?, Pool::create(bytes)?);
    let snapshot = from.filled_snapshot(ground, bytes)?;
    let (mut ours, mut pipe) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (way, speeds) in [(Way::Ours, &mut ours), (Way::Pipe, &mut pipe)] {
            let copy = to.dataset("copy");
            let time = transfer(way, ground, network, &snapshot, &copy)
                .with_context(|| format!("{snapshot} to {copy} ({way:?})"))?;
            speeds.push(bytes as f64 / 1e6 / time.as_secs_f64());
            zfs(&["destroy", "-r", &copy])?;
        }
    }
    let name = "pool to pool through ours";
    Ok(Measurement::alone(name, quantile(&mut ours, 0.5), "MB/s", Better::Higher)
        .beside("local zfs send | zfs receive", quantile(&mut pipe, 0.5))
        .goal(0.97)
        .runs(rounds))
}

/// How long it took, from the start of `zfs send` to the end of `zfs receive`.
fn transfer(way: Way, ground: &Ground, network: &Network, snapshot: &str, copy: &str) -> Result<Duration> {
    let (read, write) = wide_pipe()?;
    if way == Way::Pipe {
        let (start, send) = (now(), send(snapshot, write)?);
        ended("zfs receive", receive(copy, read)?)?;
        let time = now().saturating_sub(start);
        return ended("zfs send", send).map(|()| time);
    }
    let (arrived, arriving) = wide_pipe()?;
    let receive = receive(copy, arrived)?;
    let [mut sender, mut receiver] = OURS.start(ground, network, read, arriving)?;
    let (start, send) = (now(), send(snapshot, write)?);
    wait_all(&mut [&mut sender, &mut receiver], &mut [], PATIENCE)?;
    ended("zfs receive", receive)?;
    let time = now().saturating_sub(start);
    ended("zfs send", send).map(|()| time)
}

/// Not killed with the bench: ZFS ends by itself when its pipe does, and is not to be disturbed in the middle of a write.
fn send(snapshot: &str, into: OwnedFd) -> Result<Child> {
    Command::new("zfs").args(["send", snapshot]).stdout(into).spawn().context("zfs could not be started")
}

/// As [`send`].
fn receive(dataset: &str, from: OwnedFd) -> Result<Child> {
    Command::new("zfs")
        .args(["receive", "-u", dataset])
        .stdin(from)
        .spawn()
        .context("zfs could not be started")
}

fn ended(name: &str, mut child: Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

fn zfs(arguments: &[&str]) -> Result<()> {
    let output = Command::new("zfs").args(arguments).output().context("zfs could not be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "zfs {arguments:?} failed: {}", said.trim());
    Ok(())
}

/// A pool in a file, destroyed with the value.
#[derive(Debug)]
struct Pool {
    name: String,
    folder: TempDir,
}

impl Pool {
    fn create(bytes: u64) -> Result<Self> {
        let name = format!("dsbench{}", &Uuid::new_v4().simple().to_string()[..12]);
        let pool = Self { name, folder: tempfile::tempdir()? };
        let file = pool.folder.path().join("pool");
        Runtime::new()?.block_on(ds_zfs::create_file_pool(&pool.name, &file, bytes + SPARE_BYTES))?;
        Ok(pool)
    }

    fn dataset(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// A snapshot of a filesystem that holds one file of random `bytes`.
    fn filled_snapshot(&self, ground: &Ground, bytes: u64) -> Result<String> {
        let (dataset, mountpoint) = (self.dataset("data"), self.folder.path().join("data"));
        zfs(&["create", "-o", &format!("mountpoint={}", mountpoint.display()), &dataset])?;
        let (read, feeder) = ground.source.feed(bytes)?;
        let mut file = File::create(mountpoint.join("random"))?;
        io::copy(&mut File::from(read), &mut file)?;
        file.sync_all()?;
        feeder.join().expect("the source does not panic")?;
        let snapshot = format!("{dataset}@full");
        zfs(&["snapshot", &snapshot])?;
        Ok(snapshot)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What a failed run left lets go of it in its own time.
        for _ in 0..ATTEMPTS_TO_DESTROY {
            let output = Command::new("zpool").args(["destroy", "-f", &self.name]).output();
            if output.is_ok_and(|output| output.status.success()) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        eprintln!("pool {} could not be destroyed; do it with `zpool destroy -f {}`", self.name, self.name);
    }
}
