//! A task that a person waits for: its log to stdout, what happens to it to stderr, Ctrl-C to its end.

use anyhow::{Context as _, Result};
use ds_domain::{TaskId, api::Task};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::watch::Watch;
use crate::{
    context::Context,
    log_stream::{LogStream, Patience},
    output::{self, StdoutClosed, text},
};

/// The exit code after a cancel, as a shell has it after Ctrl-C.
pub(super) const CANCELLED: u8 = 130;

/// Follows the task to its end. `None` if the person left before that.
pub(super) async fn attach(
    context: &Context,
    id: TaskId,
    verbose: bool,
    interrupts: &mut Interrupts,
) -> Result<Option<Task>> {
    let log = LogStream::new(context, id);
    let mut sink = if context.out.json { output::raw_stderr()? } else { output::raw_stdout()? };
    let ended = log.copy_to(&mut sink);
    let mut watch = Watch::new(context, id, verbose);
    tokio::select! {
        task = ended => match task {
            Ok(task) => Ok(Some(task)),
            Err(error) => {
                if error.is::<StdoutClosed>() {
                    context.out.note(format_args!("stdout is closed; the task goes on: `ds task show {}`", text::short(id)));
                }
                Err(error)
            }
        },
        never = watch.run() => match never {},
        () = cancel_or_leave(context, id, interrupts) => {
            context.out.note(format_args!("left; see how it ends with `ds task show {}`", text::short(id)));
            Ok(None)
        }
    }
}

/// On the first interrupt asks the hub to end the task; returns on the second.
async fn cancel_or_leave(context: &Context, id: TaskId, interrupts: &mut Interrupts) {
    interrupts.next().await;
    context
        .out
        .note(format_args!("cancelling task {} and waiting for its end; again to leave", text::short(id)));
    let cancel = async {
        let mut patience = Patience::new(&context.out);
        while let Err(error) = context.client.post(&["tasks", &id.to_string(), "cancel"]).done().await {
            if let Err(error) = patience.outlast(error).await {
                context.out.warn(format_args!("the task could not be cancelled: {error:#}"));
                break;
            }
        }
    };
    tokio::join!(cancel, interrupts.next());
}

/// Ctrl-C, and what ends a CI job.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals do not end the process by themselves.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
