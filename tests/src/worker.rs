//! Processes of `ds-mover`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    memory_bytes,
    mover::{End, READY, WRITTEN},
};

/// One process, killed when dropped. What it logs is added to a file.
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a worker says.
pub enum Said {
    /// So many bytes are written at the receiver.
    Written(u64),
    /// `None` where it was killed before it said how it ended.
    Ended(Option<End>),
}

impl Worker {
    /// Starts `ds-mover WHAT` with what it has to do written to a file beside its log.
    pub fn start(what: &str, spec: &impl Serialize, log: &Path) -> Result<Self> {
        let file = log.with_extension("json");
        std::fs::write(&file, serde_json::to_vec(spec)?)?;
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut child = Command::new(program())
            .args([what.as_ref(), file.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("ds-mover could not be started")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    /// Waits until a store listens.
    pub async fn ready(&mut self) -> Result<()> {
        match self.lines.next_line().await? {
            Some(line) if line == READY => Ok(()),
            other => bail!("a store that was to listen says {other:?}"),
        }
    }

    /// What it says next. May be cancelled.
    pub async fn next(&mut self) -> Result<Said> {
        match self.lines.next_line().await? {
            None => Ok(Said::Ended(None)),
            Some(line) => match line.strip_prefix(WRITTEN) {
                Some(bytes) => Ok(Said::Written(bytes.parse()?)),
                None => Ok(Said::Ended(Some(line.parse()?))),
            },
        }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        memory_bytes(self.child.id().context("not running")?)
    }

    /// Ends it as `kill -9` does, and reaps it.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// In the build folder of the test, or in another machine on the PATH.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // Tests lie in target/<profile>/deps.
    let built = test.ancestors().nth(2).map(|folder| folder.join("ds-mover"));
    built.filter(|program| program.is_file()).unwrap_or_else(|| "ds-mover".into())
}
