//! Server-sent events: what changed, for whoever wants to fetch it again.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    response::{Sse, sse},
};
use ds_domain::{
    ProjectId,
    api::{ErrorBody, Event, User},
};
use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, error::RecvError};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{caller::Caller, problem::Problem};
use crate::core::Core;

/// How long a listener's rights in a project are remembered before the database is asked again.
const RIGHTS_KEPT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(stream_events))
}

/// What changes, as it happens: an endless stream of server-sent events. Each `data:` is an Event, and `event:`
/// is its kind. `resync` says that the listener fell behind and should fetch everything it shows again.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    responses((status = 200, body = Event, content_type = "text/event-stream"), (status = 401, body = ErrorBody)))]
async fn stream_events(
    caller: Caller,
    State(core): State<Arc<Core>>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let listener =
        Listener { user: caller.user, events: core.events.subscribe(), core, rights: HashMap::new() };
    let events = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    Ok(Sse::new(events).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Listener {
    core: Arc<Core>,
    user: User,
    events: broadcast::Receiver<Event>,
    rights: HashMap<ProjectId, (Instant, bool)>,
}

impl Listener {
    /// The next event that this user may see; `None` when the hub stops.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            let received = tokio::select! {
                () = self.core.shutdown.cancelled() => return None,
                received = self.events.recv() => received,
            };
            match received {
                Ok(event) if self.may_see(&event).await => return Some(frame(&event)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(sse::Event::default().event("resync").data("{}")),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn may_see(&mut self, event: &Event) -> bool {
        let project = match event {
            Event::Runner { .. } => return true,
            Event::Task { project, .. }
            | Event::Progress { project, .. }
            | Event::Log { project, .. }
            | Event::Runs { project }
            | Event::Commit { project, .. } => *project,
        };
        let now = Instant::now();
        if let Some((asked, may)) = self.rights.get(&project)
            && now.duration_since(*asked) < RIGHTS_KEPT
        {
            return *may;
        }
        let may = matches!(self.core.db.access(&self.user, project).await, Ok(Some(_)));
        self.rights.retain(|_, (asked, _)| now.duration_since(*asked) < RIGHTS_KEPT);
        self.rights.insert(project, (now, may));
        may
    }
}

fn frame(event: &Event) -> sse::Event {
    let kind = match event {
        Event::Task { .. } => "task",
        Event::Progress { .. } => "progress",
        Event::Log { .. } => "log",
        Event::Runs { .. } => "runs",
        Event::Commit { .. } => "commit",
        Event::Runner { .. } => "runner",
    };
    let data = serde_json::to_string(event).expect("ids and numbers serialize");
    sse::Event::default().event(kind).data(data)
}
