//! A task's log: bytes as its command wrote them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use ds_domain::{
    TaskId,
    api::{Access, ErrorBody, Event},
    task,
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::broadcast;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    caller::Caller,
    problem::Problem,
    request::{InPath, InQuery},
};
use crate::core::Core;

/// Bytes read from the database at once.
const PIECE: u32 = 256 * 1024;
/// How long a follower trusts that it was told: what another hub stored comes without an event.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

static LOG_BYTES: HeaderName = HeaderName::from_static("x-log-bytes");

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(read_log))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogParams {
    /// Where to start, in bytes.
    #[serde(default)]
    offset: u64,
    /// Keep the answer open and send what is added, until the task has ended.
    #[serde(default)]
    follow: bool,
}

/// A task's log from an offset, as raw bytes. The header `x-log-bytes` says how many bytes are stored now.
#[utoipa::path(get, path = "/api/v1/tasks/{task}/log", tag = "tasks",
    params(("task" = String, Path, description = "Id, or at least its first 4 characters"), LogParams),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn read_log(
    caller: Caller,
    State(core): State<Arc<Core>>,
    InPath(task): InPath<String>,
    InQuery(params): InQuery<LogParams>,
) -> Result<Response, Problem> {
    // Subscribe before the first look, so that nothing is missed between the two.
    let events = core.events.subscribe();
    let row = core.task_for(&caller.user, &task, Access::Viewer).await?;
    let follower = Follower {
        task: row.task.id,
        offset: params.offset,
        follow: params.follow,
        events,
        core,
        ready: VecDeque::new(),
    };
    let headers = [
        (LOG_BYTES.clone(), HeaderValue::from(row.task.log_bytes)),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(follower.pieces())).into_response())
}

/// Reads a log piece by piece, at the pace of whoever takes them.
struct Follower {
    core: Arc<Core>,
    task: TaskId,
    offset: u64,
    follow: bool,
    events: broadcast::Receiver<Event>,
    ready: VecDeque<Bytes>,
}

impl Follower {
    fn pieces(self) -> impl Stream<Item = Result<Bytes, ds_db::Error>> {
        stream::try_unfold(self, |mut follower| async move {
            let piece = follower.next().await?;
            Ok(piece.map(|piece| (piece, follower)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ds_db::Error> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            // The order matters: a task that had ended before the log was read has nothing to add to it.
            let ended = !self.follow || self.core.db.task(self.task).await?.task.state == task::State::Ended;
            let bytes = self.core.db.read_log(self.task, self.offset, PIECE).await?;
            self.offset += bytes.len() as u64;
            if !bytes.is_empty() {
                self.ready.push_back(bytes.into());
            } else if ended || !self.wait().await {
                return Ok(None);
            }
        }
    }

    /// Until something happens to the task, or it is time to look again. False when the hub stops.
    async fn wait(&mut self) -> bool {
        let concerns = |event: &Event| matches!(event, Event::Task { id, .. } | Event::Log { id, .. } if *id == self.task);
        let told = async {
            while let Ok(event) = self.events.recv().await {
                if concerns(&event) {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.core.shutdown.cancelled() => false,
            _ = tokio::time::timeout(LOOK_AGAIN, told) => true,
        }
    }
}
