//! A hub with its store, runners, and a person at the command line.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    pool::{FilePool, run},
    process::{Daemon, eventually},
};

/// A hub with its store on a pool of its own, and a person who is logged in as its admin.
#[derive(Debug)]
pub struct System {
    // Fields drop in this order: processes before the pool they use.
    /// The hub, with the store in the same process unless that runs apart.
    pub hub: Daemon,
    /// The store, where it is a process of its own.
    pub store: Option<Daemon>,
    /// The pool of the store.
    pub pool: FilePool,
    url: String,
    folder: TempDir,
}

/// Whether hub and store share a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    Together,
    Apart,
}

/// What a command of the person at the command line gave.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Standard output, if the command succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "exit code {}: {}{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }

    /// Standard output as JSON, if the command succeeded.
    pub fn json(self) -> Result<Value> {
        let text = self.ok()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

impl System {
    /// Starts a hub with a store on a fresh pool and logs in.
    pub fn start() -> Result<Self> {
        Self::launch(4096, Parts::Together, &[])
    }

    /// The same with a store's pool of `mebibytes`.
    pub fn start_of_size(mebibytes: u64) -> Result<Self> {
        Self::launch(mebibytes, Parts::Together, &[])
    }

    /// The same with the store as a process of its own.
    pub fn start_apart() -> Result<Self> {
        Self::launch(4096, Parts::Apart, &[])
    }

    /// The same with the metadata in the database at `url`.
    pub fn start_on(url: &str) -> Result<Self> {
        Self::launch(4096, Parts::Together, &["--database", url])
    }

    fn launch(mebibytes: u64, parts: Parts, more: &[&str]) -> Result<Self> {
        let pool = FilePool::create(mebibytes)?;
        let folder = tempfile::tempdir()?;
        let (http, nodes) = (local(free_tcp_port()?), local(free_tcp_port()?));
        let store_address = local(free_udp_port()?);
        let state = folder.path().join("state").to_string_lossy().into_owned();
        let dataset = pool.dataset("store");
        let mut arguments = strings(&["hub", "--http", &http, "--nodes", &nodes, "--state-dir", &state]);
        arguments.extend(match parts {
            Parts::Together => strings(&["--store-listen", &store_address, "--dataset", &dataset]),
            Parts::Apart => strings(&["--no-store", "--store", &store_address]),
        });
        arguments.extend(strings(more));
        let hub = Daemon::start(program(), arguments, vec![], folder.path().join("hub.log"))?;
        let mut system = Self { hub, store: None, pool, url: format!("http://{http}"), folder };
        if parts == Parts::Apart {
            let key = Path::new(&state).join("store/ticket-key.pub");
            eventually(|| Ok(key.exists().then_some(()))).context("the hub made no keys for its store")?;
            let arguments =
                strings(&["store", "--dataset", &dataset, "--listen", &store_address, "--state-dir", &state]);
            let log = system.folder.path().join("store.log");
            system.store = Some(Daemon::start(program(), arguments, vec![], log)?);
        }
        system.log_in(Path::new(&state))?;
        Ok(system)
    }

    fn log_in(&self, state: &Path) -> Result<()> {
        let file = state.join("hub").join("admin-password");
        let password =
            eventually(|| Ok(std::fs::read_to_string(&file).ok().filter(|p| !p.trim().is_empty())))
                .context("the hub wrote no admin password")?;
        eventually(|| {
            let answer = self.ds_with_input(
                &["login", "admin", "--url", &self.url, "--password-stdin"],
                password.trim(),
            )?;
            answer.ok().map(Some)
        })?;
        Ok(())
    }

    /// A new API key of the admin, for programs that speak HTTP themselves.
    pub fn api_key(&self) -> Result<String> {
        let created = self.json(&["key", "create", "test"])?;
        Ok(created["token"].as_str().context("no token")?.to_owned())
    }

    /// Where the hub serves HTTP.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The person types `ds ...`.
    pub fn ds(&self, arguments: &[&str]) -> Result<Answer> {
        self.ds_with_input(arguments, "")
    }

    /// `ds ... --json`, which must succeed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.insert(0, "--json");
        self.ds(&all)?.json()
    }

    /// A command that is not waited for, such as an attached `ds run`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env_remove("DS_TOKEN")
            .env_remove("DS_URL");
        command
    }

    fn ds_with_input(&self, arguments: &[&str], input: &str) -> Result<Answer> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok(Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Registers a runner and waits until it is online.
    pub fn runner(&self, name: &str) -> Result<TestRunner> {
        self.runner_with(name, &[], &[])
    }

    /// The same with a pool of `mebibytes`.
    pub fn runner_of_size(&self, name: &str, mebibytes: u64) -> Result<TestRunner> {
        self.start_runner(name, &self.token(name)?, FilePool::create(mebibytes)?, &[], &[])
    }

    /// The same with more arguments for `ds runner run`, and environment variables.
    pub fn runner_with(&self, name: &str, more: &[&str], environment: &[(&str, &str)]) -> Result<TestRunner> {
        self.start_runner(name, &self.token(name)?, FilePool::create(8192)?, more, environment)
    }

    /// The same with the token of `ds runner create`.
    pub fn runner_by_token(&self, name: &str, token: &str) -> Result<TestRunner> {
        self.start_runner(name, token, FilePool::create(8192)?, &[], &[])
    }

    /// Makes a runner known to the hub and gives its registration token.
    pub fn token(&self, name: &str) -> Result<String> {
        let created = self.json(&["runner", "create", name])?;
        Ok(created["token"].as_str().context("no token")?.to_owned())
    }

    fn start_runner(
        &self,
        name: &str,
        token: &str,
        pool: FilePool,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<TestRunner> {
        let state = self.folder.path().join(format!("runner-{name}")).to_string_lossy().into_owned();
        let dataset = pool.dataset("runner");
        let mut arguments = strings(&["runner", "run", "--state-dir", &state, "--dataset", &dataset]);
        arguments.extend(strings(more));
        let mut environment: Vec<_> =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        environment.push(("DS_RUNNER_TOKEN".to_owned(), token.to_owned()));
        let log = self.folder.path().join(format!("runner-{name}.log"));
        let daemon = Daemon::start(program(), arguments, environment, log)?;
        let id = self.json(&["runner", "show", name])?["id"].as_str().context("no id")?.to_owned();
        let runner = TestRunner { daemon, pool, id };
        self.online(name)?;
        Ok(runner)
    }

    /// Waits until the hub sees the runner.
    pub fn online(&self, name: &str) -> Result<()> {
        eventually(|| {
            let runner = self.json(&["runner", "show", name])?;
            Ok((runner["online"] == true).then_some(()))
        })
        .with_context(|| format!("runner {name} did not come online"))
    }

    /// Waits until the hub answers and reaches its store and database.
    pub fn ready(&self) -> Result<()> {
        let address = self.url.trim_start_matches("http://");
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        eventually(|| {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            Ok(Some(()))
        })
    }

    /// Starts a task and returns its id.
    pub fn start_task(&self, project: &str, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["run", "-d", "-p", project, "-I", image()?, "--"];
        arguments.extend(command);
        Ok(self.ds(&arguments)?.ok()?.trim().to_owned())
    }

    /// Waits until a task is as `wanted` says.
    pub fn task_until(&self, task: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(|| {
            let value = self.json(&["task", "show", task])?;
            Ok(wanted(&value).then_some(value))
        })
        .with_context(|| format!("task {task}: {:?}", self.ds(&["task", "show", task]).map(|a| a.stdout)))
    }

    /// Waits until a task has ended.
    pub fn task_end(&self, task: &str) -> Result<Value> {
        self.task_until(task, |t| t["state"] == "ended")
    }
}

/// A runner as a process, with a pool of its own.
#[derive(Debug)]
pub struct TestRunner {
    /// The process.
    pub daemon: Daemon,
    /// Its pool.
    pub pool: FilePool,
    id: String,
}

impl TestRunner {
    /// Its containers, in any state, by name.
    pub fn containers(&self) -> Result<Vec<String>> {
        let filter = format!("label=dotstream.runner={}", self.id);
        let text = run("docker", &["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until nothing of any task is left: no container, no working clone.
    pub fn tidy(&self) -> Result<()> {
        eventually(|| {
            let containers = self.containers()?;
            let clones: Vec<String> = self
                .pool
                .list("runner")?
                .into_iter()
                .filter(|n| n.contains("/runner/t/") || n.contains("/runner/b/"))
                .collect();
            ensure!(containers.is_empty() && clones.is_empty(), "left behind: {containers:?} {clones:?}");
            Ok(Some(()))
        })
    }
}

impl Drop for TestRunner {
    fn drop(&mut self) {
        self.daemon.kill();
        for container in self.containers().unwrap_or_default() {
            let _ = run("docker", &["rm", "-f", &container]);
        }
    }
}

/// A small image with a shell, made from Debian's static busybox.
pub fn image() -> Result<&'static str> {
    static MADE: OnceLock<Result<(), String>> = OnceLock::new();
    MADE.get_or_init(|| make_busybox_image().map_err(|e| format!("{e:#}")))
        .as_ref()
        .map_err(|e| anyhow::anyhow!("the test image could not be made: {e}"))?;
    Ok("ds-test-busybox:latest")
}

/// The image of tasks that name none, as `./quickstart` and `./check` build it.
pub fn task_image() -> Result<&'static str> {
    run("docker", &["image", "inspect", "dotstream/task:latest"])
        .context("build it first: ./check does, from deploy/images")?;
    Ok("dotstream/task:latest")
}

fn make_busybox_image() -> Result<()> {
    if run("docker", &["image", "inspect", "ds-test-busybox:latest"]).is_ok() {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let bin = root.path().join("bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(root.path().join("tmp"))?;
    std::fs::copy("/bin/busybox", bin.join("busybox")).context("apt-get install busybox-static")?;
    for name in run("/bin/busybox", &["--list"])?.lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", bin.join(name))?;
    }
    let tar = root.path().join("image.tar");
    let (tar, folder) = (tar.to_string_lossy(), root.path().to_string_lossy());
    run("tar", &["-C", &folder, "-cf", &tar, "bin", "tmp"])?;
    run("docker", &["import", "--change", "ENV PATH=/bin", &tar, "ds-test-busybox:latest"])?;
    Ok(())
}

/// The `ds` that was built beside this program.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        // Tests lie in target/<profile>/deps, programs such as the benchmark in target/<profile>.
        test.ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("ds"))
            .find(|program| program.is_file())
            .unwrap_or_else(|| panic!("no `ds` beside {}: cargo build -p ds-cli", test.display()))
    })
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|s| (*s).to_owned()).collect()
}

/// A TCP port on which nobody listens.
pub fn free_tcp_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn free_udp_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
