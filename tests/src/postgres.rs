//! A throw-away PostgreSQL server of Debian's programs, in a temporary folder, reached over its socket there.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A server, stopped when dropped.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    /// User and group that own it: the server refuses to be root.
    owner: (u32, u32),
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub fn start() -> Result<Self> {
        let programs = programs().context("PostgreSQL is not installed: apt-get install postgresql")?;
        let owner = owner().context("there is no user postgres: apt-get install postgresql")?;
        let folder = tempfile::tempdir()?;
        chown(folder.path(), Some(owner.0), Some(owner.1))?;
        let server = Self { folder, programs, owner };
        let data = server.data();
        server.run(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"],
        )?;
        let settings = format!("-k {} -c listen_addresses= -c fsync=off", server.socket());
        let log = server.folder.path().join("log").display().to_string();
        server.run("pg_ctl", &["-D", &data, "-w", "-s", "-l", &log, "-o", &settings, "start"])?;
        Ok(server)
    }

    /// A fresh database and its URL; the name gets a suffix that no other has.
    pub fn database(&self, name: &str) -> Result<String> {
        let name = format!("{}_{}", &name[..name.len().min(30)], uuid::Uuid::new_v4().simple());
        self.run("createdb", &["-h", &self.socket(), "-U", "postgres", &name])?;
        Ok(format!("postgres://postgres@localhost/{name}?host={}", self.socket()))
    }

    fn socket(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let status = Command::new(self.programs.join(program))
            .args(arguments)
            .current_dir(self.folder.path())
            .uid(self.owner.0)
            .gid(self.owner.1)
            // The server keeps what it inherits open: a pipe would never end.
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "{program} {} failed", arguments.join(" "));
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.run("pg_ctl", &["-D", &self.data(), "-w", "-s", "-m", "immediate", "stop"]) {
            eprintln!("PostgreSQL was not stopped: {error}");
        }
    }
}

/// The newest installed server's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin"))).filter(|(_, bin)| bin.join("initdb").exists())
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

/// User and group id of `postgres`.
fn owner() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}
