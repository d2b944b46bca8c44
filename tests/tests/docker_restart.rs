//! The Docker daemon restarted under a task: a second daemon of this test's own, so that the machine's is left alone.

use std::path::Path;

use anyhow::{Context, Result};
use ds_tests::{Daemon, System, eventually, image, run};

struct Docker {
    daemon: Daemon,
    host: String,
}

impl Docker {
    fn start(folder: &Path) -> Result<Self> {
        let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let host = format!("unix://{}", path("docker.sock"));
        // A network namespace of its own: without a bridge, a daemon removes the machine's `docker0`.
        let arguments = [
            "--net",
            "dockerd",
            "--data-root",
            &path("data"),
            "--exec-root",
            &path("exec"),
            "--pidfile",
            &path("pid"),
            "-H",
            &host,
            "--bridge=none",
            "--iptables=false",
        ];
        let daemon = Daemon::start(
            Path::new("unshare"),
            arguments.iter().map(|s| (*s).to_owned()).collect(),
            vec![],
            folder.join("dockerd.log"),
        )?;
        let docker = Self { daemon, host };
        docker.answers()?;
        Ok(docker)
    }

    fn answers(&self) -> Result<()> {
        eventually(|| run("docker", &["-H", &self.host, "version"]).map(Some)).map(|_| ())
    }
}

#[test]
fn the_task_ends_with_the_reason_and_the_runner_goes_on() -> Result<()> {
    let system = System::start()?;
    let folder = tempfile::tempdir()?;
    let mut docker = Docker::start(folder.path())?;
    let archive = folder.path().join("image.tar").to_string_lossy().into_owned();
    run("docker", &["save", "-o", &archive, image()?])?;
    run("docker", &["-H", &docker.host, "load", "-i", &archive])?;
    let runner = system.runner_with("alpha", &[], &[("DOCKER_HOST", &docker.host)])?;
    system.ds(&["project", "create", "demo"])?.ok()?;

    let task = system.start_task("demo", &["sh", "-c", "echo before > file; echo started; sleep 600"])?;
    system.task_until(&task, |t| t["log_bytes"].as_u64() > Some(0)).context("the task did not start")?;
    docker.daemon.stop()?;
    docker.daemon.restart()?;
    docker.answers()?;
    let ended = system.task_end(&task)?;
    assert_ne!(ended["outcome"], "succeeded", "{ended}");
    assert!(ended["error"].as_str().is_some_and(|e| e.contains("Docker")), "says what ended it: {ended}");
    assert_eq!(system.ds(&["files", "cat", "demo", "file"])?.ok()?, "before\n", "what it wrote is kept");

    let next = system.start_task("demo", &["cat", "file"])?;
    assert_eq!(system.task_end(&next)?["outcome"], "succeeded");
    let left = run("docker", &["-H", &docker.host, "ps", "-aq"])?;
    eventually(|| Ok(run("docker", &["-H", &docker.host, "ps", "-aq"])?.is_empty().then_some(())))
        .with_context(|| format!("containers left: {left}"))?;
    drop(runner);
    docker.daemon.stop()
}
