//! Sorts incoming chunks by the transfer that their heads name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use quinn::{Connection, RecvStream, VarInt};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{ChunkReader, Peer, link::MAX_CHUNK_STREAMS};

type TransferKey = [u8; 16];

/// Chunks of unknown transfers in a row after which the peer is cut off. A transfer that was given up may have as many
/// chunks under way as there may be streams.
const MAX_STRAYS: u32 = 4 * MAX_CHUNK_STREAMS;

/// Who waits for chunks on one link.
#[derive(Debug, Default)]
pub(crate) struct Routes(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    open: HashMap<TransferKey, mpsc::Sender<ChunkReader>>,
    strays: u32,
    over: bool,
}

impl Routes {
    pub(crate) fn open(routes: &Arc<Self>, transfer: TransferKey) -> Chunks {
        // As many as there can be streams: sending never waits.
        let (sender, receiver) = mpsc::channel(MAX_CHUNK_STREAMS as usize);
        let mut table = routes.table();
        table.strays = 0;
        if !table.over {
            table.open.insert(transfer, sender);
        }
        drop(table);
        Chunks { routes: Arc::clone(routes), transfer, receiver }
    }

    /// Accepts chunk streams until the connection ends.
    pub(crate) async fn run(self: Arc<Self>, connection: Connection, peer: Peer) {
        let mut heads = JoinSet::new();
        while let Ok(stream) = connection.accept_uni().await {
            while heads.try_join_next().is_some() {}
            if self.is_abused() {
                tracing::warn!(%peer, "cut off: it sends chunks that nobody asked for");
                connection.close(VarInt::from_u32(0), b"you send chunks that nobody asked for");
                break;
            }
            // A task each, because a lost packet at one stream's head must not hold up the others. Their number is
            // bounded by the streams that the peer may have open.
            heads.spawn(Arc::clone(&self).deliver_stream(stream, peer));
        }
        self.close();
    }

    async fn deliver_stream(self: Arc<Self>, stream: RecvStream, peer: Peer) {
        if let Ok(chunk) = ChunkReader::over_quic(stream, peer).await {
            self.deliver(chunk);
        }
    }

    /// Hands a chunk to its transfer, or drops it.
    pub(crate) fn deliver(&self, chunk: ChunkReader) {
        let route = self.table().open.get(&chunk.transfer()).cloned();
        if route.is_none_or(|route| route.try_send(chunk).is_err()) {
            self.table().strays += 1;
        }
    }

    /// Whether the peer sends too many chunks that nobody asked for.
    pub(crate) fn is_abused(&self) -> bool {
        self.table().strays > MAX_STRAYS
    }

    /// No more will come.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.over = true;
        table.open.clear();
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunks of one transfer, as they arrive over one link. Dropped, the rest of them is refused.
#[derive(Debug)]
pub struct Chunks {
    routes: Arc<Routes>,
    transfer: TransferKey,
    receiver: mpsc::Receiver<ChunkReader>,
}

impl Chunks {
    /// The next chunk; `None` when the link is no more. May be cancelled and called again.
    pub async fn next(&mut self) -> Option<ChunkReader> {
        self.receiver.recv().await
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        let mut table = self.routes.table();
        table.open.remove(&self.transfer);
        table.strays = 0;
    }
}
