//! Throw-away ZFS pools in sparse files.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A pool in a file, destroyed with the value.
#[derive(Debug)]
pub struct FilePool {
    name: String,
    #[expect(dead_code, reason = "kept for its drop: the pool's file is in it")]
    folder: TempDir,
}

impl FilePool {
    /// Makes a pool of `mebibytes` (sparse) under a name that no other test has.
    pub fn create(mebibytes: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let name = format!("dst{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        let file = folder.path().join("pool");
        std::fs::File::create(&file)?.set_len(mebibytes << 20)?;
        run("zpool", &["create", "-m", "none", &name, &file.to_string_lossy()])
            .context("tests need a running ZFS: start zfs-fuse, or load the zfs module")?;
        Ok(Self { name, folder })
    }

    /// The dataset `child` of this pool.
    pub fn dataset(&self, child: &str) -> String {
        format!("{}/{child}", self.name)
    }

    /// The name of the pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All datasets and snapshots below `child`, by full name.
    pub fn list(&self, child: &str) -> Result<Vec<String>> {
        let dataset = self.dataset(child);
        let text = run("zfs", &["list", "-H", "-r", "-t", "all", "-o", "name", &dataset])?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

impl Drop for FilePool {
    fn drop(&mut self) {
        for _ in 0..20 {
            if run("zpool", &["destroy", "-f", &self.name]).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        eprintln!("pool {} could not be destroyed", self.name);
    }
}

/// Runs a program to its end and returns its stdout; an error has its stderr.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
