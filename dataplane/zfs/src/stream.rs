//! Running sends and receives: a process each, with one end of a pipe in the caller's hand.

use std::{io::Write, os::fd::OwnedFd, process::Stdio, time::Duration};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::{
    process::{Child, ChildStderr},
    time::timeout,
};

use crate::{
    BadBeginning, BadStream, Error, Failure, Fault, Features, MODE_PROPERTY, Result, ResumeToken,
    SnapshotGuid, StreamReader, command,
    drr::{self, Start},
    target::Target,
    volumes::{Claim, token_of},
};

/// What a pipe is made to hold, so that ZFS and its peer need not take turns. The kernel's limit for those without privileges.
const PIPE_BYTES: usize = 1024 * 1024;
/// The kernel's default; less is never asked for.
const SMALLEST_PIPE_BYTES: usize = 64 * 1024;
/// For so long a receive may write down what is in its pipe when its stream has ended.
const NOTICE: Duration = Duration::from_secs(30);

/// A send that has started.
#[derive(Debug)]
pub struct Sending {
    /// The stream: a pipe of 1 MiB, read to its end. zfs-fuse goes on writing until this is closed, whatever became of the process.
    pub stdout: OwnedFd,
    /// Says whether the stream was whole.
    pub process: SendProcess,
}

/// The process behind a [`Sending`]; killed and reaped when dropped.
#[derive(Debug)]
pub struct SendProcess(Process);

impl SendProcess {
    /// Waits for the end, after the stream was read to its end: checks the exit code and what was said.
    pub async fn finish(self) -> Result<()> {
        let (failure, succeeded) = self.0.wait().await?;
        // libzfs skips what it cannot send with a warning and may still exit with 0.
        let skipped = ["could not send", "cannot send"].iter().any(|words| failure.said.contains(words));
        if succeeded && !skipped { Ok(()) } else { Err(Error::from_failure(failure)) }
    }

    /// Ends it at once and waits until it is gone.
    pub async fn kill(self) -> Result<()> {
        self.0.kill().await
    }
}

/// Room for a planned stream, of which nothing was let in yet. Nobody else receives there until this, or what it becomes, ends.
#[derive(Debug)]
pub struct Intake {
    target: Target,
    /// What the stream goes on from.
    from: Option<ResumeToken>,
    claim: Claim,
}

impl Intake {
    pub(crate) fn new(target: Target, from: Option<ResumeToken>, claim: Claim) -> Self {
        Self { target, from, claim }
    }

    /// Starts receiving a stream that begins with these [`BEGIN_BYTES`](crate::BEGIN_BYTES) (more are ignored), and passes them on: the caller goes
    /// on behind them. Fails with [`Error::Refused`] where they, or fewer, are not the beginning of the planned stream; then
    /// nothing has happened.
    pub fn begin(self, beginning: &[u8]) -> Result<Receiving> {
        let Self { target, from, claim } = self;
        let start = if from.is_some() { Start::Resumed } else { Start::Anew };
        let beginning = &beginning[..beginning.len().min(drr::BEGIN_BYTES)];
        let refused = |source| Error::Refused { snapshot: target.shown(), source };
        let mut stream = StreamReader::new();
        stream.push(beginning).map_err(|bad| match bad {
            BadStream { fault: Fault::Beginning(why), .. } => refused(why),
            bad => bad.into(),
        })?;
        let begin = stream.begin().ok_or_else(|| refused(BadBeginning::NoStream))?;
        let expected = target.expected();
        drr::check(begin, &expected, start, target.features().implementation).map_err(refused)?;
        let name = target.snapshot();
        let mode = format!("{MODE_PROPERTY}={}", expected.mode);
        let mut arguments = receive_arguments(target.features(), &mode);
        let options = target.options();
        arguments.extend(options.iter().map(String::as_str));
        arguments.push(&name);
        let (stdin, process) = receive(&arguments)?;
        // The pipe is empty and holds far more, so this does not wait.
        let mut pipe = std::fs::File::from(stdin);
        pipe.write_all(beginning).map_err(Error::io("write into the pipe to `zfs receive`"))?;
        Ok(Receiving {
            stdin: pipe.into(),
            stream,
            process: ReceiveProcess { process, target, from, _claim: claim },
        })
    }
}

fn receive_arguments<'a>(features: &Features, mode: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["receive"];
    if features.resume {
        arguments.push("-s");
    }
    if features.receive_unmounted {
        arguments.push("-u");
    }
    if features.receive_excluding {
        arguments.extend(["-x", "mountpoint", "-o", mode]);
    }
    arguments
}

/// A receive that has started.
#[derive(Debug)]
pub struct Receiving {
    /// Where the rest of the stream is written; closing it ends the stream.
    pub stdin: OwnedFd,
    /// Has seen the beginning. It is to see every piece before that is written, so that a damaged stream never reaches ZFS; if
    /// it fails, the receive is to be aborted.
    pub stream: StreamReader,
    /// Says what arrived.
    pub process: ReceiveProcess,
}

/// The process behind a [`Receiving`]; killed and reaped when dropped. Once the pipe is closed as well, ZFS keeps what was half
/// received where it knows resume tokens ([`Volumes::resumable`] finds it), and else destroys it.
#[derive(Debug)]
pub struct ReceiveProcess {
    process: Process,
    target: Target,
    from: Option<ResumeToken>,
    /// Held until nothing half received is left.
    _claim: Claim,
}

/// Where a running receive is, in ZFS's own words.
#[derive(Debug, Clone)]
pub struct ReceiveProgress {
    /// `None` where this ZFS knows no resume tokens.
    filesystem: Option<String>,
}

impl ReceiveProgress {
    /// How far it is on the pool; `None` where this ZFS knows no resume tokens, or has put nothing there yet.
    pub async fn token(&self) -> Result<Option<ResumeToken>> {
        match &self.filesystem {
            Some(filesystem) => token_of(filesystem).await,
            None => Ok(None),
        }
    }
}

impl ReceiveProcess {
    /// For whoever watches it.
    pub fn progress(&self) -> ReceiveProgress {
        let knows_tokens = self.target.features().resume;
        ReceiveProgress { filesystem: knows_tokens.then(|| self.target.filesystem().to_owned()) }
    }

    /// Waits for the end, after the whole stream was written and `stdin` was closed: checks the exit code and what was
    /// said, that `stream` has seen all of it, and the GUID of the snapshot under its planned name. If anything is
    /// wrong, nothing of it stays; but of a stream that went on with what was here, that stays if it is more by now:
    /// ZFS checks what it takes in, and it may be that what fed it before had not quite ended.
    pub async fn finish(self, stream: &StreamReader) -> Result<SnapshotGuid> {
        let Self { process, target, from, _claim } = self;
        let (failure, succeeded) = process.wait().await?;
        let error = match stream.finish() {
            _ if !succeeded => Some(Error::from_failure(failure)),
            whole => whole.err().map(Error::from),
        };
        if let Some(error) = error {
            if from.is_none() || target.token().await? == from {
                target.undo().await?;
            }
            return Err(error);
        }
        let (found, expected) = (target.guid().await?, target.expected().to);
        if found == expected {
            target.settle().await?;
            return Ok(found);
        }
        target.undo().await?;
        Err(Error::WrongGuid { snapshot: target.shown(), expected, found })
    }

    /// Ends it and keeps what was received of it, which [`Volumes::receive_resumed`] goes on with; `stdin` must be closed before.
    /// `None` where nothing was kept, as always where this ZFS knows no resume tokens.
    pub async fn suspend(self) -> Result<Option<ResumeToken>> {
        if !self.target.features().resume {
            return self.abort().await.map(|()| None);
        }
        let Self { process, target, _claim, .. } = self;
        process.end_soon().await?;
        target.token().await
    }

    /// Ends it and destroys what was received of it, waiting for ZFS to let go. `stdin` must be closed before.
    pub async fn abort(self) -> Result<()> {
        self.process.kill().await?;
        self.target.undo().await
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stderr: ChildStderr,
    shown: String,
}

/// Starts `zfs send` with these arguments.
pub(crate) fn send(arguments: &[&str]) -> Result<Sending> {
    let (read, write) = pipe()?;
    let process = spawn(arguments, |command| command.stdout(write))?;
    Ok(Sending { stdout: read, process: SendProcess(process) })
}

/// Starts `zfs receive` with these arguments.
fn receive(arguments: &[&str]) -> Result<(OwnedFd, Process)> {
    let (read, write) = pipe()?;
    let process = spawn(arguments, |command| command.stdin(read).stdout(Stdio::null()))?;
    Ok((write, process))
}

fn spawn(
    arguments: &[&str],
    connect: impl FnOnce(&mut tokio::process::Command) -> &mut tokio::process::Command,
) -> Result<Process> {
    let mut command = command::command("zfs", arguments);
    let mut child = connect(&mut command)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| command::spawn_error("zfs", source))?;
    let stderr = child.stderr.take().expect("stderr is piped above");
    Ok(Process { child, stderr, shown: command::shown("zfs", arguments) })
}

impl Process {
    /// What it said and whether it exited with 0. Until now stderr waited in its pipe: ZFS says a line or two.
    async fn wait(mut self) -> Result<(Failure, bool)> {
        let (status, mut said) = tokio::try_join!(self.child.wait(), command::bounded_text(&mut self.stderr))
            .map_err(Error::io(format!("wait for `{}`", self.shown)))?;
        if said.is_empty() {
            said = format!("nothing, and ended with {status}");
        }
        Ok((Failure { command: self.shown, said }, status.success()))
    }

    /// Lets it notice that its stream has ended, so that it writes down what it has, but does not wait for ever.
    async fn end_soon(mut self) -> Result<()> {
        match timeout(NOTICE, self.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(Error::io(format!("wait for `{}`", self.shown))),
            Err(_) => self.kill().await,
        }
    }

    async fn kill(mut self) -> Result<()> {
        self.child.kill().await.map_err(Error::io(format!("end `{}`", self.shown)))
    }
}

/// A pipe as large as the kernel allows. Its size is set while it is empty: resizing later can deadlock with ZFS.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::io("make a pipe")(errno.into()))?;
    let mut bytes = PIPE_BYTES;
    while fcntl_setpipe_size(&write, bytes).is_err() && bytes > SMALLEST_PIPE_BYTES {
        bytes /= 2;
    }
    Ok((read, write))
}
