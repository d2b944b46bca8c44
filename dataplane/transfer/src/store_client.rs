//! The hub's end of what a store does for it.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Control, ControlReceiver, ControlSender, Endpoint, Link, Peer};
use ds_proto::v1::{
    self, FileEntry, ImportedFile, StoreError, StoreHello, StoreOk, StoreReply, StoreRequest, StoredSnapshot,
    StreamOpen, store_error::Kind, store_reply::Reply, store_request::Request, stream_open,
};
use ds_zfs::SnapshotGuid;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::Mutex;

use crate::{Error, RequestErrorKind, Result, clock::own_now_ms};

/// Asks one store. Links when first used and again when the link is lost; on each new link the store is told the time.
pub struct StoreClient {
    endpoint: Endpoint,
    address: SocketAddr,
    store: NodeId,
    link: Mutex<Option<Link>>,
}

/// A file's content: how much of it follows, then the pieces.
pub struct FileContent {
    /// Bytes that follow.
    pub size_bytes: u64,
    recv: ControlReceiver,
    left: u64,
    /// Keeps the link open.
    link: Link,
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
        Self { endpoint, address, store, link: Mutex::default() }
    }

    /// Which store it is.
    pub fn store(&self) -> NodeId {
        self.store
    }

    /// Tells the store the time, in Unix milliseconds by the hub's clock: tickets are judged by it.
    pub async fn hello(&self, now_ms: i64) -> Result<()> {
        self.ask(Request::Hello(StoreHello { now_ms })).await.map(drop)
    }

    /// Makes a volume with a first, empty snapshot. Idempotent.
    pub async fn create_volume(&self, volume: VolumeId, first: SnapshotId) -> Result<SnapshotGuid> {
        let request = v1::CreateVolume { volume: volume.to_bytes(), snapshot: first.to_bytes() };
        let (ok, _) = self.ask(Request::CreateVolume(request)).await?;
        Ok(SnapshotGuid(ok.guid))
    }

    /// Lists what is at `path` (empty: the root): a file itself, or a folder's entries, with `recursive` all below.
    pub async fn list_files(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
        path: &str,
        recursive: bool,
    ) -> Result<Vec<FileEntry>> {
        let request = v1::ListFiles {
            volume: volume.to_bytes(),
            snapshot: snapshot.to_bytes(),
            path: path.to_owned(),
            recursive,
        };
        let (_, mut answer) = self.ask(Request::ListFiles(request)).await?;
        let mut entries = Vec::new();
        while let Some(entry) = answer.control.recv.recv().await? {
            entries.push(entry);
        }
        Ok(entries)
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
        let (ok, answer) = self.ask(Request::ReadFile(request)).await?;
        let Answer { control, link } = answer;
        Ok(FileContent { size_bytes: ok.size_bytes, recv: control.recv, left: ok.size_bytes, link })
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
        let mut answer = self.open(Request::ImportTar(request)).await?;
        let peer = answer.link.peer();
        let Control { send, recv } = &mut answer.control;
        // A store that refuses, or is gone, says so before the archive's end; the archive may stand still for long.
        let early = tokio::select! {
            sent = send_archive(send, archive) => sent.map(|()| None)?,
            early = next_reply(recv, peer) => Some(early?),
        };
        let ok = match early {
            Some(early) => early.ok_or_else(|| unanswered(peer))?,
            None => answer.reply().await?,
        };
        let mut imported = Imported { guid: SnapshotGuid(ok.guid), files: ok.imported };
        while let Some(more) = answer.more().await? {
            imported.files.extend(more.imported);
        }
        Ok(imported)
    }

    /// Makes `snapshot` the newest of the volume's main line. Idempotent.
    pub async fn advance(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let request = v1::Advance { volume: volume.to_bytes(), snapshot: snapshot.to_bytes() };
        self.ask(Request::Advance(request)).await.map(drop)
    }

    /// Destroys a snapshot that is not on the main line, with its branch. Idempotent.
    pub async fn drop_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let request = v1::DropSnapshot { volume: volume.to_bytes(), snapshot: snapshot.to_bytes() };
        self.ask(Request::DropSnapshot(request)).await.map(drop)
    }

    /// Destroys a volume with all its snapshots. Idempotent.
    pub async fn drop_volume(&self, volume: VolumeId) -> Result<()> {
        self.ask(Request::DropVolume(v1::DropVolume { volume: volume.to_bytes() })).await.map(drop)
    }

    /// The volume's snapshots: main line first, oldest first.
    pub async fn list_snapshots(&self, volume: VolumeId) -> Result<Vec<StoredSnapshot>> {
        let request = v1::ListSnapshots { volume: volume.to_bytes() };
        let (ok, mut answer) = self.ask(Request::ListSnapshots(request)).await?;
        let mut snapshots = ok.snapshots;
        while let Some(more) = answer.more().await? {
            snapshots.extend(more.snapshots);
        }
        Ok(snapshots)
    }

    /// Asks, and ends our side of the stream.
    async fn ask(&self, request: Request) -> Result<(StoreOk, Answer)> {
        let mut answer = self.open(request).await?;
        answer.control.send.finish()?;
        let ok = answer.reply().await?;
        Ok((ok, answer))
    }

    async fn open(&self, request: Request) -> Result<Answer> {
        let open = open_store(request);
        let link = self.link().await?;
        match link.open(&open).await {
            Ok(control) => Ok(Answer { control, link }),
            // It was lost in the meantime, and nothing was asked yet.
            Err(error) if error.is_retryable() => {
                let link = self.link().await?;
                Ok(Answer { control: link.open(&open).await?, link })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn link(&self) -> Result<Link> {
        let mut kept = self.link.lock().await;
        if let Some(link) = kept.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        let link = self.endpoint.connect(self.address, self.store).await?;
        let hello = open_store(Request::Hello(StoreHello { now_ms: own_now_ms() }));
        let mut control = link.open(&hello).await?;
        control.send.finish()?;
        Answer { control, link: link.clone() }.reply().await?;
        *kept = Some(link.clone());
        Ok(link)
    }
}

impl FileContent {
    /// The next piece; `None` once all [`FileContent::size_bytes`] came.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let peer = self.link.peer();
        match self.recv.read_chunk().await? {
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

/// An error is one of the archive. One of the stream only ends it: the store's answer, or its absence, says more.
async fn send_archive(
    send: &mut ControlSender,
    archive: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<()> {
    let mut archive = std::pin::pin!(archive);
    while let Some(piece) = archive.next().await {
        let piece = piece.map_err(|source| {
            send.reset();
            Error::File { action: "read", path: "the archive".into(), source }
        })?;
        if send.send_bytes(piece).await.is_err() {
            return Ok(());
        }
    }
    // Fails only if the store wants no more of it.
    let _ = send.finish();
    Ok(())
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
