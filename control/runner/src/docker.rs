//! The Docker daemon of this machine: what a task needs of it, and nothing else.
//!
//! A container is named `ds-<task>` and labelled with its task and its runner. Docker's own log of it is the spool from
//! which logs are sent. See [`container`] for what is in one, [`image`] for where it comes from, [`usage`] for
//! what it used.

pub(crate) mod container;
pub(crate) mod image;
mod usage;

use std::{collections::HashMap, time::Duration};

use bollard::{
    container::LogOutput,
    errors::Error as Bollard,
    models::ContainerStateStatusEnum as Status,
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use ds_domain::{NodeId, TaskId};
use futures_util::{Stream, StreamExt};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use usage::Usage;

use crate::error::{Error, Result};

/// Names the task of a container.
const TASK_LABEL: &str = "dotstream.task";
/// Names the runner that made a container: several may share one daemon.
const RUNNER_LABEL: &str = "dotstream.runner";
/// Where the daemon listens if nobody says otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// A connection to the daemon; it survives the daemon's restart. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    client: bollard::Docker,
    runner: NodeId,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerState {
    pub(crate) status: ContainerStatus,
    /// Unix milliseconds; 0 if it never started.
    pub(crate) started_ms: i64,
    /// Unix milliseconds; 0 if it has not ended.
    pub(crate) ended_ms: i64,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerStatus {
    /// Made and never started.
    Created,
    /// Its command runs.
    Running,
    /// Its command is over.
    Ended(Exit),
}

/// How a command ended, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) out_of_memory: bool,
    /// Why it could not be started; empty if it was.
    pub(crate) error: String,
}

/// A piece of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) source: Source,
    pub(crate) bytes: Bytes,
}

/// Which of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

impl Docker {
    /// Finds the daemon at `host` (`unix://...`), or at `$DOCKER_HOST`, or at its usual socket.
    pub(crate) async fn connect(host: Option<&str>, runner: NodeId) -> Result<Self> {
        let host = host
            .map(str::to_owned)
            .or_else(|| std::env::var("DOCKER_HOST").ok())
            .unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let unreachable = |source| Error::DockerUnreachable { host: host.clone(), source };
        let client = bollard::Docker::connect_with_host(&host).map_err(unreachable)?;
        let client = client.negotiate_version().await.map_err(unreachable)?;
        Ok(Self { client, runner })
    }

    /// The daemon's version, such as `20.10.24`.
    pub(crate) async fn version(&self) -> Result<String> {
        let version = self.client.version().await.map_err(|e| failed("tell its version", e))?;
        Ok(version.version.unwrap_or_default())
    }

    /// Makes the task's container, in place of one that was made before.
    pub(crate) async fn create(&self, spec: &container::ContainerSpec<'_>) -> Result<()> {
        let task = spec.task.task;
        self.remove(task).await?;
        let mut body = spec.body();
        body.labels = Some(HashMap::from([
            (TASK_LABEL.to_owned(), task.to_string()),
            (RUNNER_LABEL.to_owned(), self.runner.to_string()),
        ]));
        let options = CreateContainerOptionsBuilder::default().name(&name(task)).build();
        self.client
            .create_container(Some(options), body)
            .await
            .map_err(|e| failed(format!("make a container of image {}", spec.task.image), e))?;
        Ok(())
    }

    /// Starts the task's container. Starting it again does nothing.
    pub(crate) async fn start(&self, task: TaskId) -> Result<()> {
        let started = self.client.start_container(&name(task), None).await;
        started.map_err(|e| match failed("start the container", e) {
            Error::Docker { source, .. } => Error::NotStarted(source),
            other => other,
        })
    }

    /// What the task's container does; none if there is none.
    pub(crate) async fn state(&self, task: TaskId) -> Result<Option<ContainerState>> {
        let inspected = match self.client.inspect_container(&name(task), None).await {
            Err(e) if status_of(&e) == Some(404) => return Ok(None),
            other => other.map_err(|e| failed("inspect the container", e))?,
        };
        let state = inspected.state.unwrap_or_default();
        let status = match state.status.unwrap_or(Status::EMPTY) {
            // A start that failed leaves the container "created", with the reason.
            Status::CREATED if state.error.as_deref().unwrap_or_default().is_empty() => {
                ContainerStatus::Created
            }
            Status::CREATED | Status::EXITED | Status::DEAD | Status::REMOVING | Status::EMPTY => {
                ContainerStatus::Ended(Exit {
                    code: i32::try_from(state.exit_code.unwrap_or(-1)).unwrap_or(-1),
                    out_of_memory: state.oom_killed.unwrap_or(false),
                    error: state.error.unwrap_or_default(),
                })
            }
            Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING => {
                ContainerStatus::Running
            }
        };
        let (started_ms, ended_ms) =
            (unix_ms(state.started_at.as_deref()), unix_ms(state.finished_at.as_deref()));
        // Docker may note the end of a quick command before its start.
        let ended_ms = if ended_ms == 0 { 0 } else { ended_ms.max(started_ms) };
        Ok(Some(ContainerState { status, started_ms, ended_ms }))
    }

    /// Returns when the task's container does not run, whatever the reason.
    pub(crate) async fn wait(&self, task: TaskId) -> Result<()> {
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut answers = std::pin::pin!(self.client.wait_container(&name(task), Some(options)));
        match answers.next().await {
            // bollard makes an error of every exit code but 0.
            Some(Ok(_) | Err(Bollard::DockerContainerWaitError { .. })) | None => Ok(()),
            Some(Err(e)) => Err(failed("wait for the container", e)),
        }
    }

    /// Ends the task's command: SIGTERM, and SIGKILL after `grace`. Nothing happens if it is over.
    pub(crate) async fn stop(&self, task: TaskId, grace: Duration) -> Result<()> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        match self.client.stop_container(&name(task), Some(options)).await {
            Err(e) if status_of(&e) == Some(404) => Ok(()),
            other => other.map_err(|e| failed("stop the container", e)),
        }
    }

    /// Removes the task's container, running or not. Nothing happens if there is none.
    pub(crate) async fn remove(&self, task: TaskId) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.client.remove_container(&name(task), Some(options)).await {
            Err(e) if status_of(&e) == Some(404) => Ok(()),
            // 409: somebody's removal is under way. The next repetition finds it gone.
            other => other.map_err(|e| failed("remove the container", e)),
        }
    }

    /// The container's output from its beginning, in the order in which Docker took it down; with `follow` until it ends.
    pub(crate) fn logs(&self, task: TaskId, follow: bool) -> impl Stream<Item = Result<Frame>> + use<> {
        let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).build();
        self.client.logs(&name(task), Some(options)).map(|item| match item {
            Ok(LogOutput::StdErr { message }) => Ok(Frame { source: Source::Stderr, bytes: message }),
            Ok(other) => Ok(Frame { source: Source::Stdout, bytes: other.into_bytes() }),
            Err(e) => Err(failed("read the container's log", e)),
        })
    }

    /// The tasks of this runner that have a container.
    pub(crate) async fn tasks(&self) -> Result<Vec<TaskId>> {
        let label = format!("{RUNNER_LABEL}={}", self.runner);
        let filters = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers =
            self.client.list_containers(Some(options)).await.map_err(|e| failed("list the containers", e))?;
        let labels = containers.into_iter().filter_map(|container| container.labels);
        Ok(labels.filter_map(|labels| labels.get(TASK_LABEL)?.parse().ok()).collect())
    }
}

fn name(task: TaskId) -> String {
    format!("ds-{task}")
}

/// Tells a daemon that is away from one that says no.
fn failed(doing: impl Into<String>, source: Bollard) -> Error {
    match source {
        Bollard::IOError { .. }
        | Bollard::HyperResponseError { .. }
        | Bollard::HyperLegacyError { .. }
        | Bollard::RequestTimeoutError
        | Bollard::SocketNotFoundError(_) => {
            Error::DockerUnreachable { host: "its socket".to_owned(), source }
        }
        source => Error::Docker { doing: doing.into(), source },
    }
}

fn status_of(error: &Bollard) -> Option<u16> {
    match error {
        Bollard::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Docker's times; its zero is the year 1.
fn unix_ms(text: Option<&str>) -> i64 {
    let parsed = text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let ms = parsed.map_or(0, |at| at.unix_timestamp_nanos() / 1_000_000);
    i64::try_from(ms).unwrap_or(0).max(0)
}

#[cfg(test)]
pub(crate) mod tests;
