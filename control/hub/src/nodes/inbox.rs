//! What a runner says, message by message; pieces of log that lie ready one after the other come as one, so that
//! they become durable together.

use std::time::Duration;

use ds_proto::v1::{FromRunner, LogChunk, from_runner::Message};
use futures_util::FutureExt;
use tonic::{Status, Streaming};

use super::session::SILENCE;

/// The protocol's limit for one piece of log.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of log that are put together: as much as a runner has unacknowledged.
const TOGETHER: usize = 1024 * 1024;

type Read = Result<Option<Message>, Status>;

/// The incoming side of a session.
pub(super) struct Inbox {
    incoming: Streaming<FromRunner>,
    /// Read already, because it came after a piece of log.
    ahead: Option<Read>,
}

impl Inbox {
    pub(super) fn new(incoming: Streaming<FromRunner>) -> Self {
        Self { incoming, ahead: None }
    }

    /// The next message; `None` at the end of the stream. An error after [`SILENCE`] without any.
    pub(super) async fn next(&mut self) -> Read {
        let mut message = match self.ahead.take() {
            Some(read) => read?,
            None => within(SILENCE, self.read()).await?,
        };
        if let Some(Message::Log(chunk)) = &mut message {
            self.extend(chunk);
        }
        Ok(message)
    }

    async fn read(&mut self) -> Read {
        loop {
            match self.incoming.message().await? {
                None => return Ok(None),
                // One of a kind that this version does not know.
                Some(FromRunner { message: None }) => {}
                Some(FromRunner { message: Some(Message::Log(chunk)) }) if chunk.data.len() > CHUNK_BYTES => {
                    return Err(Status::invalid_argument("a log chunk is larger than 64 KiB"));
                }
                Some(FromRunner { message }) => return Ok(message),
            }
        }
    }

    /// Adds the pieces that follow and are here already.
    fn extend(&mut self, chunk: &mut LogChunk) {
        let mut data = Vec::new();
        let first = std::mem::take(&mut chunk.data);
        data.extend_from_slice(&first);
        while data.len() < TOGETHER {
            match self.read().now_or_never() {
                None => break,
                Some(Ok(Some(Message::Log(next))))
                    if next.task_id == chunk.task_id && next.offset == chunk.offset + data.len() as u64 =>
                {
                    data.extend_from_slice(&next.data);
                }
                Some(read) => {
                    self.ahead = Some(read);
                    break;
                }
            }
        }
        chunk.data = data.into();
    }
}

async fn within(limit: Duration, read: impl Future<Output = Read>) -> Read {
    tokio::time::timeout(limit, read)
        .await
        .map_err(|_| Status::deadline_exceeded("the runner was silent for 30 seconds"))?
}
