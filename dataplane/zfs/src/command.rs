//! Runs `zfs` and `zpool`: arguments, never a shell; the C locale; bounded stderr; an end to every wait.

mod turns;

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::Command,
    time::{sleep, timeout},
};

use crate::{Error, Failure, Result};

/// How much of a command's stderr is kept.
const STDERR_BYTES: u64 = 8 * 1024;

/// Commands other than send and receive end within moments, but one that meets a stalled send can wait for it for ever.
const PATIENCE: Duration = Duration::from_mins(2);

/// A dataset is busy for a moment after a process left it or a stream ended: so often it is tried again...
const BUSY_TRIES: u32 = 20;
/// ...with this between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(150);

/// Runs `zfs` and gives its stdout.
pub(crate) async fn zfs(arguments: &[&str]) -> Result<String> {
    collect("zfs", arguments).await
}

/// All that `zfs` says, however it ends: of a command without arguments how it is used (after which it exits with 2).
pub(crate) async fn zfs_said(arguments: &[&str]) -> Result<String> {
    let output = timeout(PATIENCE, command("zfs", arguments).output());
    let output = output.await.map_err(|_| Error::Busy(out_of_patience("zfs", arguments)))?;
    let output = output.map_err(|source| spawn_error("zfs", source))?;
    Ok([output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

/// Runs `zpool` and gives its stdout.
pub(crate) async fn zpool(arguments: &[&str]) -> Result<String> {
    collect("zpool", arguments).await
}

/// Runs `zfs` and hands over its stdout line by line, so that a long listing is never held as text.
pub(crate) async fn zfs_lines(arguments: &[&str], on_line: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    run("zfs", arguments, on_line).await
}

/// Runs `zfs` again while a dataset is busy, for a few seconds.
pub(crate) async fn zfs_patiently(arguments: &[&str]) -> Result<String> {
    let mut tries = 1;
    loop {
        match zfs(arguments).await {
            Err(Error::Busy(_)) if tries < BUSY_TRIES => tries += 1,
            result => return result,
        }
        sleep(BUSY_PAUSE).await;
    }
}

/// A command with everything set but its streams. Its process is killed and reaped when the handle is dropped.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The command as a person would type it.
pub(crate) fn shown(program: &str, arguments: &[&str]) -> String {
    std::iter::once(&program).chain(arguments).copied().collect::<Vec<_>>().join(" ")
}

/// Why a process could not be started.
pub(crate) fn spawn_error(program: &'static str, source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::NotFound {
        Error::NotInstalled { program }
    } else {
        Error::Io { action: format!("start {program}"), source }
    }
}

/// Reads to the end and keeps the beginning.
pub(crate) async fn bounded_text(mut stderr: impl AsyncRead + Unpin) -> std::io::Result<String> {
    let mut kept = Vec::new();
    (&mut stderr).take(STDERR_BYTES).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).trim_end().to_owned())
}

async fn collect(program: &'static str, arguments: &[&str]) -> Result<String> {
    let mut text = String::new();
    let mut append = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    run(program, arguments, &mut append).await?;
    Ok(text)
}

async fn run(
    program: &'static str,
    arguments: &[&str],
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<()> {
    let _turn = turns::take(program, arguments).await;
    match timeout(PATIENCE, run_to_end(program, arguments, on_line)).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(said))) => Err(Error::from_failure(Failure { command: shown(program, arguments), said })),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Busy(out_of_patience(program, arguments))),
    }
}

fn out_of_patience(program: &str, arguments: &[&str]) -> Failure {
    let said = format!("nothing for {} s, so it was stopped", PATIENCE.as_secs());
    Failure { command: shown(program, arguments), said }
}

/// `None` when it exited with 0, else what it said.
async fn run_to_end(
    program: &'static str,
    arguments: &[&str],
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<Option<String>> {
    let mut child = command(program, arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| spawn_error(program, source))?;
    let stdout = child.stdout.take().expect("stdout is piped above");
    let stderr = child.stderr.take().expect("stderr is piped above");
    let reading = async {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            on_line(&line);
        }
        Ok(())
    };
    let (status, (), said) = tokio::try_join!(child.wait(), reading, bounded_text(stderr))
        .map_err(Error::io(format!("read the answer of {program}")))?;
    if status.success() {
        return Ok(None);
    }
    Ok(Some(if said.is_empty() { format!("nothing, and ended with {status}") } else { said }))
}
