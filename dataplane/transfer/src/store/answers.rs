//! What the hub asks of the store, and the answers.
//!
//! Every request is answered with a `StoreReply`; entries, bytes and the rest of a list follow it until the stream ends.
//! An answer that is cut by an error has its stream reset, so it is never taken for the whole.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ds_domain::ids::{InvalidId, NodeId, SnapshotId, VolumeId};
use ds_link::{Control, ControlReceiver};
use ds_proto::v1::{
    CreateVolume, FileEntry, ImportTar, ImportedFile, ListFiles, ReadFile, StoreError, StoreHello, StoreOk,
    StoreReply, StoreRequest, StoredSnapshot, store_error::Kind, store_reply::Reply, store_request::Request,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    Node, files,
    import::{self, ImportError},
    reading::Reading,
    tree::{BadPath, Tree, relative},
};
use crate::{Error, error::in_full, metrics};

/// Pieces of a file between the thread that reads the disk and the link: who is faster waits.
const QUEUE: usize = 8;

/// Pieces of an archive (up to 256 KiB) that wait to be unpacked.
const ARCHIVE_QUEUE: usize = 8;

/// Snapshots in one message: at most 40 bytes each.
const SNAPSHOTS_PER_MESSAGE: usize = 10_000;

/// Volumes in one message: 18 bytes each.
const VOLUMES_PER_MESSAGE: usize = 20_000;

/// Imported files in one message: a path has at most 4 KiB.
const FILES_PER_MESSAGE: usize = 200;

/// Why the hub gets an error instead of an answer.
struct Failure(Kind, String);

type Answer<T> = Result<T, Failure>;

/// Answers one request. An error is one of the link.
pub(super) async fn answer(node: &Node, control: &mut Control, request: StoreRequest) -> crate::Result<()> {
    let answered = match request.request {
        Some(Request::Hello(r)) => hello(node, &r),
        Some(Request::CreateVolume(r)) => create_volume(node, &r).await,
        Some(Request::Advance(r)) => advance(node, &r.volume, &r.snapshot).await,
        Some(Request::DropSnapshot(r)) => drop_snapshot(node, &r.volume, &r.snapshot).await,
        Some(Request::DropVolume(r)) => drop_volume(node, &r.volume).await,
        Some(Request::ListSnapshots(r)) => list_snapshots(node, &r.volume).await,
        Some(Request::ListVolumes(_)) => list_volumes(node).await,
        Some(Request::ImportTar(r)) => import_tar(node, &mut control.recv, r).await,
        Some(Request::ListFiles(r)) => match list_files(node, r).await {
            Ok(entries) => return send_entries(control, entries).await,
            Err(failure) => Err(failure),
        },
        Some(Request::ReadFile(r)) => match open_part(node, r).await {
            Ok(part) => return send_part(control, part).await,
            Err(failure) => Err(failure),
        },
        None => Err(Failure(Kind::Invalid, "the request is empty or of a newer version of the hub".into())),
    };
    match answered {
        Ok(messages) => {
            metrics::request_ended("done");
            for ok in messages {
                reply(control, Reply::Ok(ok)).await?;
            }
            Ok(())
        }
        Err(Failure(kind, message)) => {
            tracing::warn!(error = message, "a request of the hub failed");
            metrics::request_ended("failed");
            reply(control, Reply::Error(StoreError { kind: kind.into(), message })).await
        }
    }
}

async fn reply(control: &mut Control, reply: Reply) -> crate::Result<()> {
    Ok(control.send.send(&StoreReply { reply: Some(reply) }).await?)
}

fn hello(node: &Node, hello: &StoreHello) -> Answer<Vec<StoreOk>> {
    node.clock.set(hello.now_ms)?;
    let nodes: Result<HashSet<_>, _> = hello.nodes.iter().map(|node| NodeId::from_bytes(node)).collect();
    let nodes = nodes?;
    // A hub that says whom it knows names at least us; one that only tells the time on a new link names nobody.
    if !nodes.is_empty() {
        node.peers.only(nodes)?;
    }
    Ok(vec![StoreOk::default()])
}

async fn create_volume(node: &Node, request: &CreateVolume) -> Answer<Vec<StoreOk>> {
    let (volume, first) = (volume_id(&request.volume)?, snapshot_id(&request.snapshot)?);
    let guid = if request.source.is_empty() {
        node.volumes.create(volume, first).await?
    } else {
        let (source, base) = (volume_id(&request.source)?, snapshot_id(&request.base)?);
        node.volumes.create_from(volume, first, source, base).await?
    };
    Ok(vec![StoreOk { guid: guid.0, ..StoreOk::default() }])
}

async fn advance(node: &Node, volume: &[u8], snapshot: &[u8]) -> Answer<Vec<StoreOk>> {
    node.volumes.advance(volume_id(volume)?, snapshot_id(snapshot)?).await?;
    Ok(vec![StoreOk::default()])
}

async fn drop_snapshot(node: &Node, volume: &[u8], snapshot: &[u8]) -> Answer<Vec<StoreOk>> {
    let (volume, snapshot) = (volume_id(volume)?, snapshot_id(snapshot)?);
    node.reading.release(snapshot).await?;
    node.volumes.drop_branch(volume, snapshot).await?;
    Ok(vec![StoreOk::default()])
}

async fn drop_volume(node: &Node, volume: &[u8]) -> Answer<Vec<StoreOk>> {
    let volume = volume_id(volume)?;
    node.reading.release_volume(volume).await?;
    node.volumes.drop_volume(volume).await?;
    Ok(vec![StoreOk::default()])
}

async fn list_snapshots(node: &Node, volume: &[u8]) -> Answer<Vec<StoreOk>> {
    let snapshots = node.volumes.snapshots(volume_id(volume)?).await?;
    let stored = |s: &ds_zfs::Snapshot| StoredSnapshot {
        snapshot: s.id.to_bytes(),
        guid: s.guid.0,
        used_bytes: s.used_bytes,
    };
    let messages = snapshots.chunks(SNAPSHOTS_PER_MESSAGE);
    let mut messages: Vec<_> = messages
        .map(|some| StoreOk { snapshots: some.iter().map(stored).collect(), ..StoreOk::default() })
        .collect();
    if messages.is_empty() {
        messages.push(StoreOk::default());
    }
    Ok(messages)
}

async fn list_volumes(node: &Node) -> Answer<Vec<StoreOk>> {
    let volumes = node.volumes.volumes().await?;
    let ids = |some: &[VolumeId]| some.iter().map(|volume| volume.to_bytes()).collect();
    let mut messages: Vec<_> = volumes
        .chunks(VOLUMES_PER_MESSAGE)
        .map(|some| StoreOk { volumes: ids(some), ..StoreOk::default() })
        .collect();
    if messages.is_empty() {
        messages.push(StoreOk::default());
    }
    Ok(messages)
}

// Reading files.

async fn list_files(node: &Node, request: ListFiles) -> Answer<Vec<FileEntry>> {
    let path = relative(Path::new(&request.path))?;
    let reading = node.reading.open(volume_id(&request.volume)?, snapshot_id(&request.snapshot)?).await?;
    let ListFiles { path: shown, recursive, after, limit, .. } = request;
    let limit = if limit == 0 { files::MAX_ENTRIES } else { files::MAX_ENTRIES.min(limit as usize) };
    blocking(&shown, move || {
        let tree = Tree::open(reading.path())?;
        let entries = files::list(&tree, &path, recursive, &files::Page { after: &after, limit });
        drop((tree, reading));
        entries
    })
    .await
}

async fn send_entries(control: &mut Control, entries: Vec<FileEntry>) -> crate::Result<()> {
    reply(control, Reply::Ok(StoreOk::default())).await?;
    for entry in entries {
        control.send.send(&entry).await?;
    }
    metrics::request_ended("done");
    Ok(())
}

struct OpenPart {
    size_bytes: u64,
    /// As the thread reads them from the disk.
    pieces: mpsc::Receiver<io::Result<Bytes>>,
}

async fn open_part(node: &Node, request: ReadFile) -> Answer<OpenPart> {
    let path = relative(Path::new(&request.path))?;
    let reading = node.reading.open(volume_id(&request.volume)?, snapshot_id(&request.snapshot)?).await?;
    let opened = blocking(&request.path, move || {
        let tree = Tree::open(reading.path())?;
        Ok((files::Part::open(&tree, &path, request.offset, request.limit)?, reading))
    });
    let (part, reading) = opened.await?;
    let size_bytes = part.left();
    let (sender, pieces) = mpsc::channel(QUEUE);
    spawn_blocking(move || read_pieces(part, reading, &sender));
    Ok(OpenPart { size_bytes, pieces })
}

fn read_pieces(mut part: files::Part, reading: Reading, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    while let Some(piece) = part.next().transpose() {
        let failed = piece.is_err();
        if pieces.blocking_send(piece).is_err() || failed {
            break;
        }
    }
    // The file first: a mounted snapshot with an open file cannot be unmounted.
    drop(part);
    drop(reading);
}

async fn send_part(control: &mut Control, part: OpenPart) -> crate::Result<()> {
    let OpenPart { size_bytes, mut pieces } = part;
    reply(control, Reply::Ok(StoreOk { size_bytes, ..StoreOk::default() })).await?;
    while let Some(piece) = pieces.recv().await {
        control.send.send_bytes(piece.map_err(|source| read_error("a file", source))?).await?;
    }
    metrics::request_ended("done");
    Ok(())
}

fn read_error(path: &str, source: io::Error) -> Error {
    Error::File { action: "read", path: path.to_owned(), source }
}

/// Runs what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Answer<T> {
    joined(spawn_blocking(work)).await.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::NotFound,
            _ => Kind::Invalid,
        };
        Failure(kind, format!("{path:?} cannot be read: {error}"))
    })
}

async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

// Importing.

async fn import_tar(node: &Node, archive: &mut ControlReceiver, request: ImportTar) -> Answer<Vec<StoreOk>> {
    let (volume, snapshot) = (volume_id(&request.volume)?, snapshot_id(&request.snapshot)?);
    let below = relative(Path::new(&request.path))?;
    let base = snapshot_id(&request.base)?;
    let claim = node.incoming.claim(volume, snapshot)?;
    if node.volumes.find(volume, snapshot).await?.is_some() {
        claim.settle();
        return Err(Failure(Kind::Invalid, format!("snapshot {snapshot} exists already: choose a new id")));
    }
    let made = async {
        let folder = node.volumes.editing_clone(volume, base, snapshot).await?;
        let imported = unpack(node, archive, folder, below).await?;
        Ok((node.volumes.commit_edit(volume, snapshot).await?, imported))
    };
    let (guid, imported) = match made.await {
        Ok(made) => made,
        Err(failure) => {
            match node.volumes.drop_branch(volume, snapshot).await {
                Ok(()) => claim.settle(),
                Err(error) => {
                    tracing::warn!(snapshot.id = %snapshot, %error, "a failed import stays until the next start");
                }
            }
            return Err(failure);
        }
    };
    claim.settle();
    let mut messages = vec![StoreOk { guid: guid.0, ..StoreOk::default() }];
    messages.extend(imported.chunks(FILES_PER_MESSAGE).map(imported_files));
    Ok(messages)
}

async fn unpack(
    node: &Node,
    archive: &mut ControlReceiver,
    folder: PathBuf,
    below: PathBuf,
) -> Answer<Vec<ImportedFile>> {
    let (pieces, waiting) = mpsc::channel(ARCHIVE_QUEUE);
    let unpacking = spawn_blocking(move || import::unpack(&folder, &below, ArchiveReader::new(waiting)));
    feed(node, archive, pieces).await;
    Ok(joined(unpacking).await?)
}

fn imported_files(some: &[ImportedFile]) -> StoreOk {
    StoreOk { imported: some.to_vec(), ..StoreOk::default() }
}

/// Passes the archive on until it ends, breaks, or is not wanted any more.
async fn feed(node: &Node, archive: &mut ControlReceiver, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let broken = |why: String| io::Error::new(io::ErrorKind::ConnectionAborted, why);
    loop {
        let piece = tokio::select! {
            piece = archive.read_chunk() => piece.map_err(|error| broken(in_full(&error))),
            () = node.stopping.cancelled() => Err(broken("the store is stopping".into())),
        };
        let last = !matches!(piece, Ok(Some(_)));
        let Some(piece) = piece.transpose() else { return };
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The archive as the unpacking thread reads it.
struct ArchiveReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl ArchiveReader {
    fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, piece: Bytes::new() }
    }
}

impl io::Read for ArchiveReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

// Words for the hub.

fn volume_id(bytes: &[u8]) -> Result<VolumeId, InvalidId> {
    VolumeId::from_bytes(bytes)
}

fn snapshot_id(bytes: &[u8]) -> Result<SnapshotId, InvalidId> {
    SnapshotId::from_bytes(bytes)
}

impl From<InvalidId> for Failure {
    fn from(error: InvalidId) -> Self {
        Self(Kind::Invalid, error.to_string())
    }
}

impl From<BadPath> for Failure {
    fn from(error: BadPath) -> Self {
        Self(Kind::Invalid, error.to_string())
    }
}

impl From<ds_zfs::Error> for Failure {
    fn from(error: ds_zfs::Error) -> Self {
        let kind = match &error {
            ds_zfs::Error::NoSpace(_) => Kind::Full,
            e if e.is_not_found() => Kind::NotFound,
            _ => Kind::Failed,
        };
        Self(kind, in_full(&error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Volumes(error) => error.into(),
            Error::NoSnapshot(_) => Self(Kind::NotFound, error.to_string()),
            other => Self(Kind::Failed, in_full(&other)),
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let kind = match &error {
            ImportError::Archive(_) | ImportError::Refused { .. } => Kind::Invalid,
            ImportError::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
                _ => Kind::Failed,
            },
        };
        Self(kind, in_full(&error))
    }
}
