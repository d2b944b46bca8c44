//! Long-lived processes that a test starts, kills and starts again.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A process with its arguments, so that it can be started again as it was. Its output goes to a file.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it.
    pub fn start(
        program: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        log: PathBuf,
    ) -> Result<Self> {
        let mut daemon = Self { program: program.to_owned(), arguments, environment, log, child: None };
        daemon.restart()?;
        Ok(daemon)
    }

    /// Starts it again with the same arguments, after [`Daemon::kill`] or [`Daemon::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} could not be started", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let ended = eventually(|| Ok(child.try_wait()?.map(|_| ())));
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended.context("it did not end on SIGTERM")
    }

    /// Resident memory in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        let id = self.child.as_ref().context("not running")?.id();
        memory_bytes(id)
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "---- {} {}\n{}",
                self.program.display(),
                self.arguments.join(" "),
                tail(&self.log(), 60)
            );
        }
    }
}

/// Resident memory of a process in bytes.
pub fn memory_bytes(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kibibytes << 10)
}

/// Asks `probe` again and again until it has an answer; gives up after [`PATIENCE`] with its last error.
pub fn eventually<T>(mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = probe();
        match last {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if start.elapsed() > PATIENCE => bail!("nothing within {} s", PATIENCE.as_secs()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
