//! Chunks over a TCP connection, one after the other, each in both directions: a record with the chunk's length and header, then
//! its payload in full records. Between two chunks there may be empty records, by which each end shows that it is there.

use std::{cmp::Ordering, fmt, io, sync::Arc};

use rustls::ExtractedSecrets;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    lost,
    records::{CONTENT_BYTES, Opened, Opener, RECORD_BYTES, RecordError, Sealer, record_bytes},
};
use crate::{
    ChunkReader, Error, Peer, Result,
    chunks::HEAD_BYTES,
    framing::FrameError,
    quic::{IDLE_TIMEOUT, KEEP_ALIVE},
    routes::Routes,
};

/// Records that are made, or taken off the socket, between two calls of the kernel. They stay in the core's own cache.
const BATCH_BYTES: usize = 16 * RECORD_BYTES;
/// The length of the payload, before the chunk's header.
const LENGTH_BYTES: usize = 4;
/// The longest header of a chunk.
const MOST_HEADER_BYTES: usize = 128;

/// The sending half.
pub(super) struct LaneWriter {
    socket: OwnedWriteHalf,
    sealer: Sealer,
    batch: Box<[u8]>,
    /// Within a chunk. Whoever finds it so after the fact knows that the stream is broken.
    within: bool,
}

/// Those who send chunks queue here; `None` when the lane is over.
pub(super) type Writing = Arc<Mutex<Option<LaneWriter>>>;

/// Takes the socket over; reading goes on in [`read`].
pub(super) fn split(
    socket: TcpStream,
    secrets: ExtractedSecrets,
) -> std::result::Result<(Writing, LaneReader), RecordError> {
    let (reading, writing) = socket.into_split();
    let buffer = || vec![0; BATCH_BYTES].into();
    let writer =
        LaneWriter { socket: writing, sealer: Sealer::new(secrets.tx)?, batch: buffer(), within: false };
    let opener = Opener::new(secrets.rx)?;
    let alive_until = Instant::now() + IDLE_TIMEOUT;
    let reader = LaneReader { socket: reading, opener, batch: buffer(), taken: 0, filled: 0, alive_until };
    Ok((Arc::new(Mutex::new(Some(writer))), reader))
}

impl LaneWriter {
    /// Sends one chunk. Cancelled half-way, the lane is of no use any more and says so from then on.
    pub(super) async fn send(&mut self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        self.begin()?;
        if self.sealer.is_spent() {
            let closing = self.sealer.close(&mut self.batch);
            self.socket.write_all(&self.batch[..closing]).await?;
            self.socket.shutdown().await?;
            return Err(io::Error::other("its keys have protected as much as they may"));
        }
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let head = [length.to_be_bytes().as_slice(), header].concat();
        let mut filled = self.sealer.seal(&head, &mut self.batch);
        for content in payload.chunks(CONTENT_BYTES) {
            if self.batch.len() - filled < RECORD_BYTES {
                self.socket.write_all(&self.batch[..filled]).await?;
                filled = 0;
            }
            filled += self.sealer.seal(content, &mut self.batch[filled..]);
        }
        self.socket.write_all(&self.batch[..filled]).await?;
        self.within = false;
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let broken_off = std::mem::replace(&mut self.within, true);
        if broken_off { Err(io::Error::other("a chunk was broken off")) } else { Ok(()) }
    }

    /// Shows that this end is there.
    async fn beat(&mut self) -> io::Result<()> {
        self.begin()?;
        let filled = self.sealer.seal(&[], &mut self.batch);
        self.socket.write_all(&self.batch[..filled]).await?;
        self.within = false;
        Ok(())
    }
}

/// Shows every now and then that this end is there; completes when it cannot.
async fn beat(writing: &Writing) {
    loop {
        sleep(KEEP_ALIVE).await;
        let mut writing = writing.lock().await;
        let Some(writer) = &mut *writing else { return };
        if writer.beat().await.is_err() {
            return;
        }
    }
}

/// The receiving half. Whoever reads a chunk has it.
pub(super) struct LaneReader {
    socket: OwnedReadHalf,
    opener: Opener,
    batch: Box<[u8]>,
    /// Within the batch: records before are done, behind `filled` there is nothing yet.
    taken: usize,
    filled: usize,
    /// When the other end's silence has lasted too long.
    alive_until: Instant,
}

impl LaneReader {
    /// Decrypts the next record's content into `out`; `None` at the end.
    async fn next(&mut self, peer: Peer, out: &mut [u8]) -> Result<Option<usize>> {
        let broken = |e: RecordError| Error::Lost { who: peer.to_string(), reason: e.to_string() };
        let end = loop {
            let there = &self.batch[self.taken..self.filled];
            if let Some(length) = record_bytes(there).map_err(broken)?.filter(|length| *length <= there.len())
            {
                break self.taken + length;
            }
            self.batch.copy_within(self.taken..self.filled, 0);
            self.filled -= std::mem::take(&mut self.taken);
            let read = tokio::select! {
                biased;
                // First, since what came while nobody read was no silence.
                read = self.socket.read(&mut self.batch[self.filled..]) => read.map_err(|e| lost(peer, &e))?,
                () = sleep_until(self.alive_until) => return Err(Error::TimedOut { who: peer.to_string() }),
            };
            match read {
                0 => return Err(Error::Lost { who: peer.to_string(), reason: "it hung up".into() }),
                read => self.filled += read,
            }
            self.alive_until = Instant::now() + IDLE_TIMEOUT;
        };
        let opened = self.opener.open(&self.batch[self.taken..end], out).map_err(broken)?;
        self.taken = end;
        Ok(match opened {
            Opened::Content(length) => Some(length),
            Opened::End => None,
        })
    }

    /// The head of the next chunk; `None` at the end.
    async fn head(&mut self, peer: Peer) -> Result<Option<Head>> {
        let mut bytes = [0; LENGTH_BYTES + MOST_HEADER_BYTES + 1];
        let length = loop {
            match self.next(peer, &mut bytes).await? {
                Some(0) => {}
                Some(length) => break length,
                None => return Ok(None),
            }
        };
        if length < LENGTH_BYTES + HEAD_BYTES {
            return Err(FrameError::Cut.into());
        }
        let payload_left = u32::from_be_bytes(*bytes.first_chunk().expect("longer than that")) as usize;
        let header = bytes[LENGTH_BYTES..length].to_vec();
        Ok(Some(Head { header, payload_left }))
    }

    /// Fills `out` with payload.
    async fn payload(&mut self, peer: Peer, out: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < out.len() {
            match self.next(peer, &mut out[filled..]).await? {
                Some(length) => filled += length,
                None => return Err(FrameError::Cut.into()),
            }
        }
        Ok(())
    }
}

struct Head {
    header: Vec<u8>,
    payload_left: usize,
}

/// A chunk that is arriving. The lane's reader goes back to the lane when this is dropped.
pub(crate) struct Arrival {
    peer: Peer,
    /// Not handed out yet.
    header: Vec<u8>,
    payload_left: usize,
    reader: Option<LaneReader>,
    over: CancellationToken,
    back: Option<oneshot::Sender<(LaneReader, usize)>>,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("payload_left", &self.payload_left).finish_non_exhaustive()
    }
}

impl Arrival {
    /// The next bytes of its header.
    pub(crate) fn take_header(&mut self, into: &mut [u8]) -> Result<()> {
        if self.header.len() < into.len() {
            return Err(FrameError::Cut.into());
        }
        let rest = self.header.split_off(into.len());
        into.copy_from_slice(&self.header);
        self.header = rest;
        Ok(())
    }

    /// Fills `into`, which is as long as the payload. Cancelled half-way, the lane is lost.
    pub(crate) async fn read_payload(&mut self, into: &mut [u8]) -> Result<()> {
        match self.payload_left.cmp(&into.len()) {
            Ordering::Less => return Err(FrameError::Cut.into()),
            Ordering::Greater => return Err(FrameError::Long.into()),
            Ordering::Equal => {}
        }
        let mut reader = self.reader.take().ok_or(FrameError::Cut)?;
        tokio::select! {
            biased;
            () = self.over.cancelled() => return Err(super::closed(self.peer)),
            read = reader.payload(self.peer, into) => read?,
        }
        self.payload_left = 0;
        self.reader = Some(reader);
        Ok(())
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // A reader that is lost with us ends the lane: its stream stands in the middle of a chunk.
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            let _ = back.send((reader, self.payload_left));
        }
    }
}

/// Takes chunks off the lane and hands them to their transfers, until it ends. Until then it shows over `writing` that this end is
/// there.
pub(super) async fn read(
    mut reader: LaneReader,
    writing: &Writing,
    peer: Peer,
    routes: Arc<Routes>,
    over: CancellationToken,
) {
    let reading = async {
        while let Some(Head { mut header, payload_left }) = reader.head(peer).await? {
            let rest = header.split_off(HEAD_BYTES);
            let head = header.try_into().expect("it was split there");
            let (back, returned) = oneshot::channel();
            let arrival = Arrival {
                peer,
                header: rest,
                payload_left,
                reader: Some(reader),
                over: over.clone(),
                back: Some(back),
            };
            routes.deliver(ChunkReader::over_tcp(head, arrival));
            if routes.is_abused() {
                tracing::warn!(%peer, "cut off: it sends chunks that nobody asked for");
                return Ok(());
            }
            let skip;
            (reader, skip) = returned.await.map_err(|_| FrameError::Cut)?;
            reader.skip(peer, skip).await?;
        }
        Ok::<_, Error>(())
    };
    tokio::select! {
        biased;
        () = over.cancelled() => {}
        () = beat(writing) => {}
        ended = reading => if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a lane over TCP was lost");
        }
    }
    over.cancel();
    routes.close();
}

impl LaneReader {
    /// Passes over the rest of a chunk that nobody wants.
    async fn skip(&mut self, peer: Peer, mut bytes: usize) -> Result<()> {
        let mut nowhere = vec![0; bytes.min(CONTENT_BYTES + 1)];
        while bytes > 0 {
            let content = self.next(peer, &mut nowhere).await?.ok_or(FrameError::Cut)?;
            bytes = bytes.checked_sub(content).ok_or(FrameError::Cut)?;
        }
        Ok(())
    }
}
