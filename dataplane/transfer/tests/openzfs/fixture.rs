//! Volumes with some megabytes on them, and `zfs` by hand.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use ds_domain::ids::SnapshotId;
use ds_proto::v1::{Direction, Receipt};
use ds_transfer::{Error, Progress};
use tokio_util::sync::CancellationToken;

use crate::support::{MIB, Pool, Runner, What, World, new_snapshot, noise};

/// So much is in the file of a snapshot that is pulled: the receiver cuts itself off, by what it has written.
pub(crate) const PULLED: u64 = 24 * MIB;

/// And in one that is pushed. More than the store's window of 64 MiB and [`PART`] together: however slow the machine is, a
/// sender that has heard of no more than that cannot have sent all.
pub(crate) const PUSHED: u64 = 80 * MIB;

/// A transfer is interrupted when so much of it has been written at the receiver.
pub(crate) const PART: u64 = 2 * MIB;

/// What lies between the receiver's acknowledgement and what ZFS has put on the pool: a pipe, and ZFS's own queue.
pub(crate) const SLACK: u64 = 3 * MIB;

/// Says what the case is about, or that it is skipped.
pub(crate) fn on_openzfs(about: &str) -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    let answers = *ANSWERS.get_or_init(|| {
        let version = Command::new("zfs").arg("version").output();
        version.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"zfs-"))
    });
    println!("{}{about}", if answers { "" } else { "skipped, the ZFS of this machine is not OpenZFS: " });
    answers
}

/// `zfs` by hand.
pub(crate) fn zfs(arguments: &[&str]) -> String {
    let output = Command::new("zfs").env("LC_ALL", "C").args(arguments).output().unwrap();
    assert!(output.status.success(), "zfs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn property_of(dataset: &str, property: &str) -> String {
    zfs(&["get", "-Hp", "-o", "value", property, dataset]).trim().to_owned()
}

/// The main line of a volume below one root, written to by hand.
#[derive(Clone)]
pub(crate) struct Line {
    name: String,
    mountpoint: PathBuf,
}

impl Line {
    /// Of the volume that `what` is of.
    pub(crate) fn of(pool: &Pool, root: &str, what: What) -> Self {
        let hex = what.volume.to_hex();
        let name = pool.root(&format!("{root}/v/{hex}"));
        Self { name, mountpoint: pool.folder().join(format!("line-{root}-{hex}")) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn at(&self, snapshot: SnapshotId) -> String {
        format!("{}@{}", self.name, snapshot.to_hex())
    }

    /// Destroys a snapshot, once its sender, which hears of the end last, has let go of it.
    pub(crate) async fn destroy(&self, snapshot: SnapshotId) {
        let name = self.at(snapshot);
        while property_of(&name, "userrefs") != "0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        zfs(&["destroy", &name]);
    }

    /// The next snapshot, with one file of noise more.
    pub(crate) fn grow(&self, what: What, file: &str, bytes: u64) -> (What, Vec<u8>) {
        let (next, content) = (new_snapshot(), noise(bytes));
        zfs(&["set", &format!("mountpoint={}", self.mountpoint.display()), &self.name]);
        fs::write(self.mountpoint.join(file), &content).unwrap();
        zfs(&["snapshot", &self.at(next)]);
        zfs(&["set", "mountpoint=none", &self.name]);
        (What { snapshot: next, base: Some(what.snapshot), ..what }, content)
    }
}

/// A store with a volume, of which a runner has the first snapshot, and the store a second of [`PULLED`].
pub(crate) async fn grown_at_the_store() -> (World, Runner, What, Vec<u8>) {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (second, content) = Line::of(&world.pool, "store", first).grow(first, "data", PULLED);
    (world, runner, second, content)
}

/// The same with a runner that is ahead, by [`PUSHED`].
pub(crate) async fn grown_at_the_runner() -> (World, Runner, What, Vec<u8>) {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (second, content) = Line::of(&runner.pool, "runner", first).grow(first, "data", PUSHED);
    (world, runner, second, content)
}

/// Moves `what` and cancels when [`PART`] of it has been written; gives how much was.
pub(crate) async fn cancelled(world: &World, runner: &Runner, direction: Direction, what: What) -> u64 {
    let (link, cancel) = (runner.link(world).await, CancellationToken::new());
    let seen = Arc::new(Mutex::new(0));
    let ticket = world.signer.sign(&world.ticket(runner, direction, what));
    let (watched, ended) = (Arc::clone(&seen), cancel.clone());
    let note = move |progress: Progress| {
        *watched.lock().unwrap() = progress.bytes;
        if progress.bytes >= PART {
            ended.cancel();
        }
    };
    let What { volume, snapshot, .. } = what;
    let Runner { volumes, .. } = runner;
    let error = match direction {
        Direction::Pull => {
            ds_transfer::pull(&link, volumes, ticket, volume, snapshot, note, &cancel).await.unwrap_err()
        }
        _ => ds_transfer::push(&link, volumes, ticket, volume, snapshot, note, &cancel).await.unwrap_err(),
    };
    assert!(matches!(error, Error::Cancelled), "{error}");
    *seen.lock().unwrap()
}

/// Pushes, again while the store still cleans up after an earlier attempt.
pub(crate) async fn push_again(world: &World, runner: &Runner, what: What) -> Receipt {
    until_done(async || world.push(runner, what).await.map(|(_, receipt)| receipt)).await
}

/// Pulls, again while an earlier attempt has not quite ended.
pub(crate) async fn pull_again(world: &World, runner: &Runner, what: What) -> Receipt {
    until_done(async || world.pull(runner, what).await).await
}

async fn until_done(attempt: impl AsyncFn() -> Result<Receipt, Error>) -> Receipt {
    loop {
        match attempt().await {
            Ok(receipt) => return receipt,
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                println!("again, after: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// That of `all` the rest alone was sent after `written` bytes had been.
pub(crate) fn assert_resumed(receipt: &Receipt, all: u64, written: u64) {
    let sent = receipt.stream_bytes;
    println!("{written} bytes were written of {all}, and {sent} were sent by the next attempt");
    assert!(sent < all && sent + written <= all + SLACK, "{sent} bytes were sent after {written}");
    assert!(sent > 0, "the first attempt had not been cut off");
}
