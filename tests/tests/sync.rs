//! `ds sync` as a person types it: a hub with its store, machines with trees of their own, and nodes that serve.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ds_tests::{Answer, Daemon, FilePool, System, eventually, run, system::program};
use serde_json::Value;

/// A machine with a tree on a pool, and an identity at the hub.
struct Machine {
    pool: FilePool,
    folder: PathBuf,
    state: String,
}

impl Machine {
    fn new(system: &System, name: &str) -> Result<Self> {
        let (pool, folder) = (FilePool::create(1024)?, system.folder().join(name));
        let state = system.folder().join(format!("{name}-state")).to_string_lossy().into_owned();
        run("zfs", &["create", "-o", &format!("mountpoint={}", folder.display()), &pool.dataset("data")])?;
        Ok(Self { pool, folder, state })
    }

    fn data(&self) -> String {
        self.pool.dataset("data")
    }

    fn child(&self, path: &str, bytes: usize) -> Result<()> {
        run("zfs", &["create", &self.pool.dataset(&format!("data/{path}"))])?;
        Ok(fs::write(self.folder.join(path).join("file"), noise(bytes))?)
    }

    fn snapshot(&self, name: &str) -> Result<()> {
        run("zfs", &["snapshot", "-r", &format!("{}@{name}", self.data())]).map(drop)
    }

    fn sync(&self, system: &System, arguments: &[&str]) -> Result<Answer> {
        system.ds(&self.arguments(arguments))
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["sync", "--state-dir", &self.state];
        all.extend(arguments);
        all
    }
}

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

/// Paths, names and GUIDs of all snapshots below a dataset.
fn guids(root: &str) -> Result<Vec<String>> {
    let listed = run("zfs", &["get", "-Hp", "-r", "-o", "name,value", "guid", root])?;
    let mut all: Vec<_> =
        listed.lines().filter(|line| line.contains('@')).map(|line| line.replacen(root, "", 1)).collect();
    all.sort();
    Ok(all)
}

#[test]
fn a_tree_is_pushed_kept_in_step_and_fetched_elsewhere() -> Result<()> {
    let system = System::start_of_size(2048)?;
    let one = Machine::new(&system, "one")?;
    one.child("a", 3_000_000)?;
    one.child("b", 1_000)?;
    one.snapshot("s1")?;
    let data = one.data();
    let nameless = one.sync(&system, &[&data, "store:data"])?;
    ensure!(nameless.code == 1 && nameless.stderr.contains("ds runner create"), "{nameless:?}");

    let token = system.token("one")?;
    let looked =
        one.sync(&system, &[&data, "store:data", "--dry-run", "--json", "--token", &token])?.json()?;
    ensure!(looked["targets"][0]["datasets"].as_array().is_some_and(|all| all.len() == 3), "{looked}");
    ensure!(
        !system.pool.list("store/d")?.iter().any(|name| name.contains("/d/data")),
        "a dry run did something"
    );

    one.sync(&system, &[&data, "store:data"])?.ok()?;
    let copy = system.pool.dataset("store/d/data");
    ensure!(guids(&copy)? == guids(&data)?, "the copy differs");
    one.snapshot("s2")?;
    let second = one.sync(&system, &[&data, "store:data", "--json"])?.json()?;
    ensure!(second["targets"][0]["snapshots"] == 3, "{second}");
    ensure!(second["targets"][0]["bytes"].as_u64().is_some_and(|bytes| bytes < 100_000), "{second}");

    let two = Machine::new(&system, "two")?;
    let back = two.pool.dataset("back");
    let token = system.token("two")?;
    two.sync(&system, &["store:data", &back, "--token", &token])?.ok()?;
    ensure!(guids(&back)? == guids(&data)?, "what was fetched differs");

    // What went another way is left as it is, and the rest goes on.
    run("zfs", &["snapshot", &format!("{copy}/a@theirs")])?;
    one.snapshot("s3")?;
    let partly = one.sync(&system, &[&data, "store:data"])?;
    ensure!(partly.code == 3 && partly.stderr.contains("went another way"), "{partly:?}");
    let beside = one.sync(&system, &[&data, "store:data", "--on-divergence", "beside"])?;
    ensure!(beside.code == 0, "{beside:?}");
    ensure!(
        guids(&format!("{copy}/a.diverged-1"))?.iter().any(|line| line.starts_with("@s3")),
        "nothing beside"
    );
    Ok(())
}

#[test]
fn who_may_not_is_told_so() -> Result<()> {
    let system = System::start_of_size(1024)?;
    let one = Machine::new(&system, "one")?;
    one.snapshot("s1")?;
    let (data, token) = (one.data(), system.token("one")?);
    one.sync(&system, &[&data, "store:data", "--token", &token])?.ok()?;
    for wrong in [
        vec![data.as_str(), "store:a/b"],
        vec![&data, &data],
        vec!["store:a", "store:b"],
        vec!["store:data", "x/y", "--keep-source", "1x1h"],
        vec![&data, "store:data", "--limit", "fast"],
    ] {
        let answer = one.sync(&system, &wrong)?;
        ensure!(answer.code == 2, "{wrong:?}: {answer:?}");
    }
    let nowhere = one.sync(&system, &[&one.pool.dataset("nothing"), "store:nothing"])?;
    ensure!(nowhere.code == 1 && nowhere.stderr.contains("does not exist"), "{nowhere:?}");

    system.ds(&["runner", "rm", "one"])?.ok()?;
    let removed = one.sync(&system, &[&data, "store:data"])?;
    ensure!(removed.code == 1 && removed.stderr.contains("no ticket"), "{removed:?}");
    Ok(())
}

/// A `zfs` that notes each call before it makes it.
fn noting_zfs(folder: &Path) -> Result<(String, PathBuf)> {
    let (bin, log) = (folder.join("bin"), folder.join("calls"));
    fs::create_dir_all(&bin)?;
    let zfs = run("sh", &["-c", "command -v zfs"])?;
    let script = format!("#!/bin/sh\necho \"$*\" >> '{}'\nexec {} \"$@\"\n", log.display(), zfs.trim());
    fs::write(bin.join("zfs"), script)?;
    run("chmod", &["+x", &bin.join("zfs").to_string_lossy()])?;
    let path = std::env::var("PATH").context("there is no PATH")?;
    Ok((format!("{}:{path}", bin.display()), log))
}

/// A node that keeps trees, on a pool of its own.
fn server(system: &System, name: &str, port: u16) -> Result<(Daemon, FilePool)> {
    let pool = FilePool::create(1024)?;
    let state = system.folder().join(format!("{name}-state")).to_string_lossy().into_owned();
    let (dataset, listen) = (pool.dataset("copies"), format!("127.0.0.1:{port}"));
    let arguments = ["sync", "serve", "--dataset", &dataset, "--listen", &listen, "--state-dir", &state];
    let arguments = arguments.map(str::to_owned).to_vec();
    let environment = vec![("DS_RUNNER_TOKEN".to_owned(), system.token(name)?)];
    let daemon =
        Daemon::start(program(), arguments, environment, system.folder().join(format!("{name}.log")))?;
    eventually(|| Ok(daemon.log().contains("trees are served").then_some(())))?;
    Ok((daemon, pool))
}

fn free_udp_port() -> Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[test]
fn what_several_lack_is_read_once() -> Result<()> {
    let system = System::start_of_size(2048)?;
    let one = Machine::new(&system, "one")?;
    one.child("a", 9_000_000)?;
    one.snapshot("s1")?;
    let (ports, names) = ([free_udp_port()?, free_udp_port()?], ["beta", "gamma"]);
    let servers = [server(&system, names[0], ports[0])?, server(&system, names[1], ports[1])?];
    let far = [0, 1].map(|at| format!("{}@127.0.0.1:{}:data", names[at], ports[at]));
    let (path, calls) = noting_zfs(system.folder())?;
    let (data, token) = (one.data(), system.token("one")?);
    let arguments =
        one.arguments(&[&data, "store:data", "--to", &far[0], "--to", &far[1], "--json", "--token", &token]);
    let output = system.command(&arguments).env("PATH", path).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        report["targets"].as_array().is_some_and(|all| all.iter().all(|t| t["snapshots"] == 2)),
        "{report}"
    );
    let calls = fs::read_to_string(calls)?;
    ensure!(
        calls.lines().filter(|call| call.starts_with("send ")).count() == 2,
        "one for each dataset: {calls}"
    );
    for copy in [
        system.pool.dataset("store/d/data"),
        servers[0].1.dataset("copies/d/data"),
        servers[1].1.dataset("copies/d/data"),
    ] {
        ensure!(guids(&copy)? == guids(&data)?, "{copy} differs");
    }

    // One that is away keeps the others from nothing.
    let [(mut beta, _beta_pool), gamma] = servers;
    beta.stop()?;
    one.snapshot("s2")?;
    let partly = one.sync(&system, &[&data, "store:data", "--to", &far[0], "--to", &far[1]])?;
    ensure!(partly.code == 3 && partly.stderr.contains(&far[0]), "{partly:?}");
    for copy in [system.pool.dataset("store/d/data"), gamma.1.dataset("copies/d/data")] {
        ensure!(guids(&copy)? == guids(&data)?, "{copy} differs");
    }
    Ok(())
}

/// Ended with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_sync_that_was_killed_goes_on_with_the_same_command() -> Result<()> {
    let system = System::start_of_size(2048)?;
    let one = Machine::new(&system, "one")?;
    one.child("a", 1_000)?;
    one.child("bulk", 60_000_000)?;
    one.snapshot("s1")?;
    let (data, token) = (one.data(), system.token("one")?);
    let arguments = one.arguments(&[&data, "store:data", "--limit", "5MB", "--token", &token]);
    let sync = system.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let sync = Killed(sync);
    let copy = system.pool.dataset("store/d/data");
    eventually(|| {
        Ok(guids(&copy).is_ok_and(|all| all.iter().any(|line| line.starts_with("/a@"))).then_some(()))
    })?;
    sleep(Duration::from_secs(1));
    ensure!(!guids(&copy)?.iter().any(|line| line.starts_with("/bulk@")), "it was faster than its limit");
    drop(sync);
    one.sync(&system, &[&data, "store:data"])?.ok()?;
    ensure!(guids(&copy)? == guids(&data)?, "the copy differs");
    Ok(())
}

#[test]
fn rounds_come_by_schedule_with_retention_and_metrics() -> Result<()> {
    let system = System::start_of_size(1024)?;
    let one = Machine::new(&system, "one")?;
    one.snapshot("s1")?;
    let (data, token) = (one.data(), system.token("one")?);
    let metrics = format!("127.0.0.1:{}", ds_tests::free_tcp_port()?);
    let arguments = one.arguments(&[
        &data,
        "store:data",
        "--every",
        "1s",
        "--keep",
        "1x1s(keep=1)",
        "--metrics",
        &metrics,
        "--token",
        &token,
    ]);
    let sync = system.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let _sync = Killed(sync);
    let copy = system.pool.dataset("store/d/data");
    let arrives = |name: &str| {
        let there = format!("@{name}\t");
        eventually(|| {
            Ok(guids(&copy).is_ok_and(|all| all.iter().any(|line| line.starts_with(&there))).then_some(()))
        })
    };
    arrives("s1")?;
    // The grid counts from the newest, in whole seconds.
    sleep(Duration::from_secs(2));
    one.snapshot("s2")?;
    arrives("s2")?;
    eventually(|| Ok((guids(&copy)?.len() == 1).then_some(())))?;
    let mut stream = TcpStream::connect(&metrics)?;
    stream.write_all(
        format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(
        page.contains("ds_sync_last_success_timestamp_seconds") && page.contains("ds_sync_bytes_total"),
        "{page}"
    );
    Ok(())
}
