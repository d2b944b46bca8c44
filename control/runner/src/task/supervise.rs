//! Runs the container: starts it, reads its log, ends it when asked or when its time is over.

use std::{pin::pin, time::Duration};

use ds_domain::task::MAX_TASK_LOG;
use ds_proto::v1::TaskPhase;
use tokio_util::sync::CancellationToken;

use super::{Task, ending::Ending};
use crate::{
    backoff::Backoff,
    clock::now_ms,
    docker::{ContainerState, ContainerStatus, Docker, Usage},
    error::{Error, Result, explain},
    journal::Stop,
    logs::{self, Log, LogPump},
};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// A container that has ended.
struct Ended {
    state: ContainerState,
    daemon_was_away: bool,
}

impl Task {
    /// The stage [`crate::journal::Stage::Running`]. A container that runs already is found again.
    pub(super) async fn supervise(&mut self) -> Result<()> {
        self.tell(TaskPhase::Running, "");
        let over = CancellationToken::new();
        let docker = self.node.docker.clone();
        let usage = docker.usage(self.id(), &over);
        let watched = async {
            let _over = over.clone().drop_guard();
            let state = self.started().await?;
            self.watch(&state).await
        };
        let (watched, usage) = tokio::join!(watched, usage);
        match watched {
            Ok((log, ended)) => self.end_with(log, &ended, usage).await,
            Err(error @ (Error::ContainerGone | Error::NotStarted(_))) => {
                let ending = Ending::not_run(&explain(&error));
                self.end(self.result(ending.outcome, ending.error)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Starts the container unless it was started before.
    async fn started(&self) -> Result<ContainerState> {
        let (docker, task) = (&self.node.docker, self.id());
        let state = docker.state(task).await?.ok_or(Error::ContainerGone)?;
        if state.status != ContainerStatus::Created {
            return Ok(state);
        }
        docker.start(task).await?;
        docker.state(task).await?.ok_or(Error::ContainerGone)
    }

    async fn watch(&mut self, state: &ContainerState) -> Result<(Log, Ended)> {
        let docker = self.node.docker.clone();
        let task = self.id();
        let over = CancellationToken::new();
        let log = LogPump::new(task, &self.node.hub, self.signals.log_acked.clone());
        let ended = async {
            let ended = self.until_ended(state.started_ms).await;
            over.cancel();
            ended
        };
        tokio::try_join!(log.run(&docker, &over), ended)
    }

    /// Waits for the container's end, and brings it about when it is due.
    async fn until_ended(&mut self, started_ms: i64) -> Result<Ended> {
        let docker = self.node.docker.clone();
        let cancel = self.signals.cancel.clone();
        let (mut daemon_was_away, mut backoff) = (false, Backoff::default());
        let mut too_long = pin!(logs::too_long(&docker, self.id()));
        loop {
            let may_stop = self.journal.entry().stop.is_none();
            let timeout = time_left(self.journal.spec().timeout_seconds, started_ms);
            let looked = tokio::select! {
                looked = self.look_or_stop(&docker) => looked,
                () = cancel.cancelled(), if may_stop => {
                    self.journal.update(|entry| entry.stop = Some(Stop::Cancelled)).await?;
                    continue;
                }
                () = timeout, if may_stop => {
                    self.journal.update(|entry| entry.stop = Some(Stop::TimedOut)).await?;
                    continue;
                }
                () = &mut too_long, if may_stop => {
                    self.journal.update(|entry| entry.stop = Some(Stop::LogTooLong)).await?;
                    continue;
                }
            };
            match looked {
                Ok(state) if matches!(state.status, ContainerStatus::Ended(_)) => {
                    return Ok(Ended { state, daemon_was_away });
                }
                Ok(_) => backoff.wait().await,
                Err(Error::ContainerGone) => return Err(Error::ContainerGone),
                Err(error) => {
                    daemon_was_away |= matches!(error, Error::DockerUnreachable { .. });
                    self.trouble(&explain(&error));
                    backoff.wait().await;
                }
            }
        }
    }

    /// Waits until the container does not run, or ends it if that was decided.
    async fn look_or_stop(&self, docker: &Docker) -> Result<ContainerState> {
        let task = self.id();
        match self.journal.entry().stop {
            None => docker.wait(task).await?,
            Some(stop) => {
                let (why, grace) = match stop {
                    Stop::Cancelled => ("it was cancelled", GRACE),
                    Stop::TimedOut => ("its time is over", GRACE),
                    // Each second of it is another piece of the machine's disk.
                    Stop::LogTooLong => ("its log is too long", Duration::ZERO),
                };
                self.tell(TaskPhase::Running, format!("ending the command: {why}"));
                docker.stop(task, grace).await?;
            }
        }
        docker.state(task).await?.ok_or(Error::ContainerGone)
    }

    async fn end_with(&mut self, log: Log, ended: &Ended, usage: Usage) -> Result<()> {
        let entry = self.journal.entry();
        let mut ending = Ending::of(&ended.state, entry.stop, &entry.spec, ended.daemon_was_away);
        if ending.failed() && self.pool_is_full().await {
            ending.add("the runner's pool is full: what the command could not write is lost. Free space on the pool, or enlarge it");
        }
        let mut result = self.result(ending.outcome, ending.error);
        result.exit_code = ending.exit_code;
        result.started_ms = ended.state.started_ms;
        result.ended_ms = ended.state.ended_ms;
        result.log_bytes = log.bytes;
        result.records = log.found.records;
        result.warnings.extend(log.found.warnings);
        if log.cut {
            let kept = MAX_TASK_LOG >> 20;
            result.warnings.push(format!("the first {kept} MiB of the log are kept, which had more"));
        }
        result.cpu_seconds = usage.cpu_seconds;
        result.peak_memory_bytes = usage.peak_memory_bytes;
        self.end(result).await
    }

    async fn pool_is_full(&self) -> bool {
        let spec = self.journal.spec();
        let Ok(Some(clone)) = self.node.volumes.task_mountpoint(spec.task, spec.volume).await else {
            return false;
        };
        // Copy-on-write filesystems refuse writes a little before nothing is left.
        rustix::fs::statvfs(&clone).is_ok_and(|fs| fs.f_bavail * fs.f_frsize < 2 << 20)
    }
}

/// Completes when the time limit, counted from the container's start, is reached. Never without one.
async fn time_left(timeout_seconds: Option<u64>, started_ms: i64) {
    let Some(seconds) = timeout_seconds else { return std::future::pending().await };
    let limit_ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    let left = started_ms.saturating_add(limit_ms).saturating_sub(now_ms());
    tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
}
