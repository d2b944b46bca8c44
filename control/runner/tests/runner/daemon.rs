//! A Docker daemon of the test's own, to be restarted without disturbing others.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{image, world::output};

/// Runs until dropped; without a network.
pub(crate) struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        image::make();
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(dir.path());
        let daemon = Self { child, dir };
        daemon.answers().await;
        let archive = daemon.dir.path().join("image.tar");
        let archive = archive.to_str().unwrap();
        output("docker", &["save", "--output", archive, image::IMAGE]);
        output("docker", &["--host", &daemon.host(), "load", "--input", archive]);
        daemon
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.dir.path().display())
    }

    /// As `systemctl restart docker` does it: the containers are ended first.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.dir.path());
        self.answers().await;
    }

    async fn answers(&self) {
        let version = ["--host", &self.host(), "version"];
        while !Command::new("docker").args(version).output().unwrap().status.success() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn stop(&mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        // The daemon mounts its own folder and leaves it so.
        let data = self.dir.path().join("data");
        while Command::new("umount").arg(&data).stderr(Stdio::null()).status().unwrap().success() {}
    }
}

fn spawn(dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let within = |name: &str| dir.join(name).display().to_string();
    // A network namespace of its own: a daemon without a bridge removes the one that it finds, which is the machine's.
    Command::new("unshare")
        .args(["--net", "dockerd"])
        .args(["--data-root", &within("data"), "--exec-root", &within("exec"), "--pidfile", &within("pid")])
        .args(["--host", &format!("unix://{}", within("docker.sock"))])
        .args(["--bridge=none", "--iptables=false", "--ip-masq=false", "--ip-forward=false"])
        .args(["--containerd-namespace=dstest", "--containerd-plugins-namespace=dstestplugins"])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
