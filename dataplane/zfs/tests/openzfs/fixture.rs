//! Two pools that the cases of one process share, filesystems made by hand on them, and `zfs` by hand.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use ds_domain::ids::{SnapshotId, VolumeId};
use ds_zfs::{BEGIN_BYTES, SendPlan, SnapshotGuid, StreamMode, Volumes};
use tokio::sync::Mutex;

use crate::support::{Pool, plan, snapshot, transfer, volume, zfs};

/// Half of a small pool is OpenZFS's own. The files are sparse.
const POOL_MIB: u64 = 768;

/// One end of a stream.
pub(crate) struct Side {
    pub pool: Pool,
    pub volumes: Volumes,
}

impl Side {
    /// On a pool of its own.
    pub(crate) async fn create() -> Self {
        let pool = Pool::create(POOL_MIB).await;
        let volumes = pool.volumes().await;
        Self { pool, volumes }
    }

    /// Where the volume's main line lies.
    pub(crate) fn main(&self, volume: VolumeId) -> String {
        self.pool.dataset(&format!("v/{}", volume.to_hex()))
    }

    /// The next snapshot of a main line, with what `fill` writes under these properties: made by hand, since a task's clone and an
    /// advance take ten times as many commands.
    pub(crate) fn grow(
        &self,
        volume: VolumeId,
        properties: &[&str],
        fill: impl FnOnce(PathBuf),
    ) -> SnapshotId {
        let (main, next) = (self.main(volume), snapshot());
        let folder = self.pool.folder.path().join(format!("main-{}", volume.to_hex()));
        let mountpoint = format!("mountpoint={}", folder.display());
        zfs(&[&["set"], properties, &[mountpoint.as_str(), &main]].concat());
        fill(folder);
        zfs(&["snapshot", &format!("{main}@{}", next.to_hex())]);
        zfs(&["set", "mountpoint=none", &main]);
        next
    }

    /// The same with one file.
    pub(crate) fn write(&self, volume: VolumeId, file: &str, content: &[u8]) -> SnapshotId {
        self.grow(volume, &[], |folder| std::fs::write(folder.join(file), content).unwrap())
    }
}

/// Where a stream comes from and where it goes.
pub(crate) struct Pair {
    pub from: Side,
    pub to: Side,
}

static SHARED: Mutex<Weak<Pair>> = Mutex::const_new(Weak::new());

/// The shared pair; made when no other case has it, and destroyed with the last. `None` where ZFS is not OpenZFS.
pub(crate) async fn pair(about: &str) -> Option<Arc<Pair>> {
    if !on_openzfs(about) {
        return None;
    }
    let mut shared = SHARED.lock().await;
    if let Some(pair) = shared.upgrade() {
        return Some(pair);
    }
    let pair = Arc::new(Pair { from: Side::create().await, to: Side::create().await });
    *shared = Arc::downgrade(&pair);
    Some(pair)
}

/// Pools that no other case shares, for cases that change how much room there is.
pub(crate) async fn pair_of_its_own(about: &str) -> Option<Pair> {
    if !on_openzfs(about) {
        return None;
    }
    Some(Pair { from: Side::create().await, to: Side::create().await })
}

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

impl Pair {
    /// A new volume with a first snapshot that is on both sides.
    pub(crate) async fn volume(&self) -> (VolumeId, SnapshotId) {
        let (volume, first) = (volume(), snapshot());
        self.from.volumes.create(volume, first).await.unwrap();
        self.bring(volume, first).await.unwrap();
        (volume, first)
    }

    pub(crate) async fn plan(&self, volume: VolumeId, snapshot: SnapshotId) -> SendPlan {
        plan(&self.from.volumes, &self.to.volumes, volume, snapshot).await
    }

    /// Plans and sends a snapshot to the other side.
    pub(crate) async fn bring(&self, volume: VolumeId, snapshot: SnapshotId) -> ds_zfs::Result<SnapshotGuid> {
        self.bring_in(StreamMode::PLAIN, volume, snapshot).await
    }

    /// The same with blocks that travel so.
    pub(crate) async fn bring_in(
        &self,
        mode: StreamMode,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> ds_zfs::Result<SnapshotGuid> {
        let plan = self.plan(volume, snapshot).await.with_mode(mode);
        transfer(&self.from.volumes, &self.to.volumes, &plan).await
    }
}

/// The whole stream of a plan.
pub(crate) async fn bytes_of(volumes: &Volumes, plan: &SendPlan) -> Vec<u8> {
    let sending = volumes.send(plan).await.unwrap();
    let mut stream = std::fs::File::from(sending.stdout);
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = reading.await.unwrap().unwrap();
    sending.process.finish().await.unwrap();
    bytes
}

/// Receives these bytes as the stream of the plan.
pub(crate) async fn receive_bytes(
    volumes: &Volumes,
    plan: &SendPlan,
    bytes: Vec<u8>,
) -> ds_zfs::Result<SnapshotGuid> {
    let mut receiving = volumes.receive(plan).await?.begin(&bytes)?;
    // What a caller would end here goes on to ZFS all the same: it has to notice by itself as well.
    receiving.stream.push(&bytes[BEGIN_BYTES..]).ok();
    let mut stdin = std::fs::File::from(receiving.stdin);
    // A receiver that refuses closes its end early.
    tokio::task::spawn_blocking(move || stdin.write_all(&bytes[BEGIN_BYTES..])).await.unwrap().ok();
    receiving.process.finish(&receiving.stream).await
}

/// A filesystem made by hand, destroyed with what is on it when dropped.
pub(crate) struct Scratch {
    pub name: String,
    pub folder: PathBuf,
}

impl Scratch {
    /// With options of `zfs create`.
    pub(crate) fn create(side: &Side, options: &[&str]) -> Self {
        let scratch = Self::absent(side);
        let mountpoint = format!("mountpoint={}", scratch.folder.display());
        let mut arguments = vec!["create", "-o", &mountpoint];
        arguments.extend(options);
        arguments.push(&scratch.name);
        zfs(&arguments);
        scratch
    }

    /// A name to receive into.
    pub(crate) fn absent(side: &Side) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = format!("scratch{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { name: format!("{}/{own}", side.pool.name), folder: side.pool.folder.path().join(own) }
    }

    pub(crate) fn write(&self, file: &str, content: &[u8]) {
        std::fs::write(self.folder.join(file), content).unwrap();
    }

    /// Takes a snapshot; gives its full name.
    pub(crate) fn snapshot(&self, name: &str) -> String {
        let full = self.at(name);
        zfs(&["snapshot", &full]);
        full
    }

    /// The full name of a snapshot.
    pub(crate) fn at(&self, snapshot: &str) -> String {
        format!("{}@{snapshot}", self.name)
    }

    /// Mounts what was received; gives the folder.
    pub(crate) fn mounted(&self) -> &Path {
        zfs(&["set", "-u", &format!("mountpoint={}", self.folder.display()), &self.name]);
        zfs(&["mount", &self.name]);
        &self.folder
    }

    pub(crate) fn property(&self, property: &str) -> String {
        property_of(&self.name, property)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Half-received state of an incremental stream has to go before the rest.
        for arguments in [&["receive", "-A", &self.name][..], &["destroy", "-rf", &self.name]] {
            let _ = Command::new("zfs").args(arguments).stderr(Stdio::null()).status();
        }
    }
}

pub(crate) fn property_of(dataset: &str, property: &str) -> String {
    zfs(&["get", "-Hp", "-o", "value", property, dataset]).trim_end().to_owned()
}

/// What `zfs` says when it refuses, which it must.
pub(crate) fn refused(arguments: &[&str]) -> String {
    let output = Command::new("zfs").args(arguments).env("LC_ALL", "C").output().unwrap();
    assert!(!output.status.success(), "zfs {arguments:?} was to fail");
    String::from_utf8(output.stderr).unwrap()
}

/// What `zfs send` writes with these arguments.
pub(crate) fn sent(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("zfs").arg("send").args(arguments).output().unwrap();
    assert!(output.status.success(), "send {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What `zfs receive` says of a stream: an error is what it wrote on stderr.
pub(crate) fn received(arguments: &[&str], stream: &[u8]) -> Result<(), String> {
    let mut child = Command::new("zfs")
        .arg("receive")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A receiver that refuses closes its end early.
    child.stdin.take().unwrap().write_all(stream).ok();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
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
