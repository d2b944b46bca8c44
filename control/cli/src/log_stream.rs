//! A task's log, to its end, whatever happens to the hub on the way.

use std::time::Duration;

use anyhow::Result;
use ds_domain::{TaskId, api::Task, task::State};
use futures_util::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::{
    client::{self, Client},
    context::Context,
    output::{self, Output},
};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Copies the bytes of one task's log. Knows how far it is, so that a broken connection costs and repeats nothing.
pub(crate) struct LogStream<'a> {
    client: &'a Client,
    patience: Patience<'a>,
    task: TaskId,
    offset: u64,
}

impl<'a> LogStream<'a> {
    pub(crate) fn new(context: &'a Context, task: TaskId) -> Self {
        Self { client: &context.client, patience: Patience::new(&context.out), task, offset: 0 }
    }

    /// Copies to `sink` until the task has ended and its whole log is copied; returns the task as it ended. While the hub
    /// is away it is asked again and again.
    pub(crate) async fn copy_to(mut self, sink: &mut (impl AsyncWrite + Unpin)) -> Result<Task> {
        let id = self.task.to_string();
        loop {
            self.copy_what_comes(&id, sink).await?;
            // The stream ends with the task, but also with the hub.
            match self.client.get(&["tasks", &id]).json::<Task>().await {
                Ok(task) if task.state == State::Ended && self.offset >= task.log_bytes => return Ok(task),
                Ok(_) => self.patience.pause().await,
                Err(error) => self.patience.outlast(error).await?,
            }
        }
    }

    async fn copy_what_comes(&mut self, id: &str, sink: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let call = self.client.get(&["tasks", id, "log"]).query("offset", self.offset).query("follow", true);
        let mut log = match call.bytes().await {
            Ok(log) => log,
            Err(error) => return self.patience.outlast(error).await,
        };
        self.patience.answered();
        while let Some(part) = log.next().await {
            let part = match part {
                Ok(part) => part,
                Err(error) => return self.patience.outlast(error).await,
            };
            sink.write_all(&part).await.map_err(output::closed)?;
            sink.flush().await.map_err(output::closed)?;
            self.offset += part.len() as u64;
            self.patience.renew();
        }
        Ok(())
    }
}

/// How long to wait before the hub is asked again, and what the person is told.
pub(crate) struct Patience<'a> {
    out: &'a Output,
    wait: Duration,
    away: bool,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(out: &'a Output) -> Self {
        Self { out, wait: FIRST_WAIT, away: false }
    }

    /// Waits if the error may pass, with one notice for each time that the hub is away; else returns it.
    pub(crate) async fn outlast(&mut self, error: client::Error) -> Result<()> {
        if !error.is_retryable() {
            return Err(error.into());
        }
        if !self.away {
            self.away = true;
            self.out.note(format_args!("the hub does not answer ({}); trying again", error.why()));
        }
        self.pause().await;
        Ok(())
    }

    /// The hub answered.
    pub(crate) fn answered(&mut self) {
        if std::mem::take(&mut self.away) {
            self.out.note("the hub is back");
        }
    }

    /// There was progress: the next wait is a short one.
    fn renew(&mut self) {
        self.wait = FIRST_WAIT;
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }
}
