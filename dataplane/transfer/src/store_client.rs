//! The hub's end of what a store does for it.

mod links;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Control, ControlReceiver, ControlSender, Endpoint, Link, Peer};
use ds_proto::v1::{
    self, FileEntry, ImportedFile, StoreError, StoreHello, StoreOk, StoreReply, StoreRequest, StoredSnapshot,
    StreamOpen, store_error::Kind, store_reply::Reply, store_request::Request, stream_open,
};
use ds_zfs::SnapshotGuid;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::links::{AT_ONCE, SharedLink, Target};
use crate::{Error, RequestErrorKind, Result};

/// Files and archives on their way at once. Each has a link of its own: one that its reader lets stand still would use up what
/// a shared link may hold unread, and stop everything else on it.
const MAX_STREAMS: usize = 32;

/// How long a file or archive waits for its place among them.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// How long the store may take over what it has to ask ZFS for, or read from a disk.
const SOON: Duration = Duration::from_mins(2);

/// The same for what makes or destroys much, or waits for something to become free.
const LATER: Duration = Duration::from_mins(10);

/// Asks one store. Links when first used and again when the link is lost; the store is then told the time.
///
/// Requests share one link; files and archives have one each. Whatever is asked ends, also when the store never answers.
pub struct StoreClient {
    target: Target,
    shared: SharedLink,
    streams: Arc<Semaphore>,
}

/// A file's content: how much of it follows, then the pieces.
pub struct FileContent {
    /// Bytes that follow.
    pub size_bytes: u64,
    recv: ControlReceiver,
    left: u64,
    /// Keeps the link open.
    link: Link,
    _place: OwnedSemaphorePermit,
}

/// What an import made.
#[derive(Debug)]
pub struct Imported {
    /// The new snapshot's.
    pub guid: SnapshotGuid,
    /// Files and links that were written, at most 100,000 of them; not folders.
    pub files: Vec<ImportedFile>,
}

impl StoreClient {
    /// For the store `store` at `address`; does not link yet. `endpoint` must have the hub's identity.
    pub fn new(endpoint: Endpoint, address: SocketAddr, store: NodeId) -> Self {
        Self {
            target: Target { endpoint, address, store },
            shared: SharedLink::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }

    /// Which store it is.
    pub fn store(&self) -> NodeId {
        self.target.store
    }

    /// Tells the store the time, in Unix milliseconds by the hub's clock, by which tickets are judged; and all nodes that the
    /// hub knows: links of others are refused, and closed.
    pub async fn hello(&self, now_ms: i64, nodes: &[NodeId]) -> Result<()> {
        // The store itself is always among them: an empty list, as on a new link, says nothing of nodes.
        let nodes = nodes.iter().chain([&self.target.store]).map(|node| node.to_bytes()).collect();
        self.tell(AT_ONCE, Request::Hello(StoreHello { now_ms, nodes })).await
    }

    /// Makes a volume with a first, empty snapshot. Idempotent.
    pub async fn create_volume(&self, volume: VolumeId, first: SnapshotId) -> Result<SnapshotGuid> {
        let request = v1::CreateVolume {
            volume: volume.to_bytes(),
            snapshot: first.to_bytes(),
            ..v1::CreateVolume::default()
        };
        self.begin_volume(request).await
    }

    /// Makes a volume whose first snapshot has what snapshot `base` of the volume `source` has: they share their blocks.
    /// Idempotent.
    pub async fn clone_volume(
        &self,
        volume: VolumeId,
        first: SnapshotId,
        source: VolumeId,
        base: SnapshotId,
    ) -> Result<SnapshotGuid> {
        let request = v1::CreateVolume {
            volume: volume.to_bytes(),
            snapshot: first.to_bytes(),
            source: source.to_bytes(),
            base: base.to_bytes(),
        };
        self.begin_volume(request).await
    }

    async fn begin_volume(&self, request: v1::CreateVolume) -> Result<SnapshotGuid> {
        self.within(SOON, async {
            let (ok, _) = self.ask(Request::CreateVolume(request)).await?;
            Ok(SnapshotGuid(ok.guid))
        })
        .await
    }

    /// Lists what is at `path` (empty: the root): a file itself, or a folder's entries, with `recursive` all below. One page: at
    /// most `limit` entries (0, or more than that: 10,000) in order of their paths, which come after the path `after`.
    pub async fn list_files(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
        path: &str,
        recursive: bool,
        after: &str,
        limit: u32,
    ) -> Result<Vec<FileEntry>> {
        let request = v1::ListFiles {
            volume: volume.to_bytes(),
            snapshot: snapshot.to_bytes(),
            path: path.to_owned(),
            recursive,
            after: after.to_owned(),
            limit,
        };
        self.within(SOON, async {
            let (_, mut answer) = self.ask(Request::ListFiles(request)).await?;
            let mut entries = Vec::new();
            while let Some(entry) = answer.control.recv.recv().await? {
                entries.push(entry);
            }
            Ok(entries)
        })
        .await
    }

    /// Opens `limit` bytes (0: to the end) of a file from `offset` on.
    pub async fn read_file(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
        path: &str,
        offset: u64,
        limit: u64,
    ) -> Result<FileContent> {
        let request = v1::ReadFile {
            volume: volume.to_bytes(),
            snapshot: snapshot.to_bytes(),
            path: path.to_owned(),
            offset,
            limit,
        };
        let place = self.stream_place().await?;
        self.within(SOON, async {
            let mut answer = self.open_alone(Request::ReadFile(request)).await?;
            answer.control.send.finish().await?;
            let size_bytes = answer.reply().await?.size_bytes;
            let Answer { control, link } = answer;
            Ok(FileContent { size_bytes, recv: control.recv, left: size_bytes, link, _place: place })
        })
        .await
    }

    /// Unpacks a tar over `base` below `path` and takes the snapshot. An error of `archive` drops all of it.
    pub async fn import_tar(
        &self,
        volume: VolumeId,
        base: SnapshotId,
        snapshot: SnapshotId,
        path: &str,
        archive: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Imported> {
        let request = v1::ImportTar {
            volume: volume.to_bytes(),
            base: base.to_bytes(),
            snapshot: snapshot.to_bytes(),
            path: path.to_owned(),
        };
        let _place = self.stream_place().await?;
        let mut answer = self.within(SOON, self.open_alone(Request::ImportTar(request))).await?;
        let peer = answer.link.peer();
        let Control { send, recv } = &mut answer.control;
        // A store that refuses, or is gone, says so before the archive's end; the archive may stand still for long.
        let early = tokio::select! {
            sent = self.send_archive(send, archive) => sent.map(|()| None)?,
            reply = next_reply(recv, peer) => Some(reply?),
        };
        let ok = match early {
            Some(early) => early.ok_or_else(|| unanswered(peer))?,
            None => self.within(LATER, answer.reply()).await?,
        };
        let mut imported = Imported { guid: SnapshotGuid(ok.guid), files: ok.imported };
        while let Some(more) = self.within(SOON, answer.more()).await? {
            imported.files.extend(more.imported);
        }
        Ok(imported)
    }

    /// Makes `snapshot` the newest of the volume's main line. Idempotent.
    pub async fn advance(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let request = v1::Advance { volume: volume.to_bytes(), snapshot: snapshot.to_bytes() };
        self.tell(LATER, Request::Advance(request)).await
    }

    /// Destroys a snapshot that is not on the main line, with its branch. Idempotent.
    pub async fn drop_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let request = v1::DropSnapshot { volume: volume.to_bytes(), snapshot: snapshot.to_bytes() };
        self.tell(LATER, Request::DropSnapshot(request)).await
    }

    /// Destroys a volume with all its snapshots. Idempotent.
    pub async fn drop_volume(&self, volume: VolumeId) -> Result<()> {
        self.tell(LATER, Request::DropVolume(v1::DropVolume { volume: volume.to_bytes() })).await
    }

    /// The volume's snapshots: main line first, oldest first.
    pub async fn list_snapshots(&self, volume: VolumeId) -> Result<Vec<StoredSnapshot>> {
        let request = v1::ListSnapshots { volume: volume.to_bytes() };
        self.within(SOON, async {
            let (ok, mut answer) = self.ask(Request::ListSnapshots(request)).await?;
            let mut snapshots = ok.snapshots;
            while let Some(more) = answer.more().await? {
                snapshots.extend(more.snapshots);
            }
            Ok(snapshots)
        })
        .await
    }

    /// The volumes that the store has.
    pub async fn list_volumes(&self) -> Result<Vec<VolumeId>> {
        self.within(SOON, async {
            let (ok, mut answer) = self.ask(Request::ListVolumes(v1::ListVolumes {})).await?;
            let mut volumes = ok.volumes;
            while let Some(more) = answer.more().await? {
                volumes.extend(more.volumes);
            }
            let wrong = |_| Error::protocol(answer.link.peer(), "a volume that is no id");
            volumes.iter().map(|bytes| VolumeId::from_bytes(bytes).map_err(wrong)).collect()
        })
        .await
    }

    /// Asks for what is answered with a word.
    async fn tell(&self, patience: Duration, request: Request) -> Result<()> {
        self.within(patience, async { self.ask(request).await.map(drop) }).await
    }

    /// Asks, and ends our side of the stream.
    async fn ask(&self, request: Request) -> Result<(StoreOk, Answer)> {
        let mut answer = self.open(request).await?;
        answer.control.send.finish().await?;
        let ok = answer.reply().await?;
        Ok((ok, answer))
    }

    async fn within<T>(&self, patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.target.within(patience, work).await
    }

    /// On the link that all requests share.
    async fn open(&self, request: Request) -> Result<Answer> {
        let open = open_store(request);
        let link = self.shared.link(&self.target).await?;
        match link.open(&open).await {
            Ok(control) => Ok(Answer { control, link }),
            // It was lost in the meantime, and nothing was asked yet.
            Err(error) if error.is_retryable() => {
                let link = self.shared.link(&self.target).await?;
                Ok(Answer { control: link.open(&open).await?, link })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// On a link of its own.
    async fn open_alone(&self, request: Request) -> Result<Answer> {
        let link = self.target.link().await?;
        Ok(Answer { control: link.open(&open_store(request)).await?, link })
    }

    async fn stream_place(&self) -> Result<OwnedSemaphorePermit> {
        match timeout(STREAM_PATIENCE, Arc::clone(&self.streams).acquire_owned()).await {
            Ok(place) => Ok(place.expect("nobody closes the semaphore")),
            Err(_) => Err(Error::Busy(format!(
                "{MAX_STREAMS} files and archives are on their way to or from the store"
            ))),
        }
    }

    /// An error is one of the archive, or of a store that takes none of it any more. One of the stream only ends it: the
    /// store's answer, or its absence, says more.
    async fn send_archive(
        &self,
        send: &mut ControlSender,
        archive: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<()> {
        let mut archive = std::pin::pin!(archive);
        while let Some(piece) = archive.next().await {
            let piece = piece.map_err(|source| {
                send.reset();
                Error::File { action: "read", path: "the archive".into(), source }
            })?;
            let sending = async { Ok(send.send_bytes(piece).await) };
            if self.within(LATER, sending).await?.is_err() {
                return Ok(());
            }
        }
        // Fails only if the store wants no more of it.
        let _ = send.finish().await;
        Ok(())
    }
}

impl FileContent {
    /// The next piece; `None` once all [`FileContent::size_bytes`] came.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let peer = self.link.peer();
        let unanswered = |_| Error::Unanswered { store: peer.node, seconds: SOON.as_secs() };
        match timeout(SOON, self.recv.read_chunk()).await.map_err(unanswered)?? {
            Some(piece) => {
                let left = self.left.checked_sub(piece.len() as u64);
                self.left = left.ok_or_else(|| Error::protocol(peer, "a file is longer than it said"))?;
                Ok(Some(piece))
            }
            None if self.left > 0 => Err(Error::protocol(peer, "a file is shorter than it said")),
            None => Ok(None),
        }
    }

    /// The pieces as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        stream::unfold(Some(self), async |content| {
            let mut content = content?;
            match content.next().await {
                Ok(piece) => piece.map(|piece| (Ok(piece), Some(content))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// An open request. Holds the link, so that it stays open until the answer is read.
struct Answer {
    control: Control,
    link: Link,
}

impl Answer {
    async fn reply(&mut self) -> Result<StoreOk> {
        self.more().await?.ok_or_else(|| unanswered(self.link.peer()))
    }

    async fn more(&mut self) -> Result<Option<StoreOk>> {
        next_reply(&mut self.control.recv, self.link.peer()).await
    }
}

/// May be cancelled and called again.
async fn next_reply(recv: &mut ControlReceiver, peer: Peer) -> Result<Option<StoreOk>> {
    match recv.recv::<StoreReply>().await? {
        None => Ok(None),
        Some(StoreReply { reply: Some(Reply::Ok(ok)) }) => Ok(Some(ok)),
        Some(StoreReply { reply: Some(Reply::Error(error)) }) => Err(request_error(error)),
        Some(StoreReply { reply: None }) => Err(Error::protocol(peer, "an empty answer")),
    }
}

fn unanswered(peer: Peer) -> Error {
    Error::protocol(peer, "it does not answer")
}

fn open_store(request: Request) -> StreamOpen {
    StreamOpen { kind: Some(stream_open::Kind::Store(StoreRequest { request: Some(request) })) }
}

fn request_error(error: StoreError) -> Error {
    let kind = match error.kind() {
        Kind::NotFound => RequestErrorKind::NotFound,
        Kind::Invalid => RequestErrorKind::Invalid,
        Kind::Full => RequestErrorKind::Full,
        Kind::Failed | Kind::Unspecified => RequestErrorKind::Failed,
    };
    Error::Request { kind, message: error.message }
}
