//! Bad input and faults that a person can meet: each gives a clear message, records nothing by halves and leaves nothing behind.

use std::path::Path;

use anyhow::{Context, Result};
use ds_tests::{Daemon, System, eventually, image};

#[test]
fn what_cannot_run_says_so_at_the_command_line_and_in_the_task() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;

    let answer = system.ds(&["run", "-p", "demo", "-I", "no-such-registry.invalid/x:1", "--", "true"])?;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("no-such-registry.invalid/x:1"), "names the image: {}", answer.stderr);

    let answer = system.ds(&["run", "-p", "demo", "-I", image()?, "--", "no-such-program"])?;
    assert!(answer.code == 127 || answer.code == 1, "{answer:?}");
    assert!(answer.stderr.contains("no-such-program"), "names the command: {}", answer.stderr);

    let answer = system.ds(&[
        "run",
        "-p",
        "demo",
        "-I",
        image()?,
        "--repo",
        "http://127.0.0.1:9/none.git",
        "--",
        "true",
    ])?;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("127.0.0.1:9"), "names the repository: {}", answer.stderr);

    let answer = system.ds(&["run", "-p", "nowhere", "--", "true"])?;
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("nowhere"), "{}", answer.stderr);
    runner.tidy()
}

#[test]
fn a_repository_is_checked_out_into_the_workspace() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let repository = system.folder().join("repository");
    let git = |arguments: &[&str]| -> Result<String> {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(&repository)
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(arguments)
            .output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    std::fs::create_dir_all(&repository)?;
    git(&["init", "-q", "-b", "main"])?;
    std::fs::write(repository.join("train.sh"), "echo version one\n")?;
    git(&["add", "."])?;
    git(&["commit", "-qm", "one"])?;
    let one = git(&["rev-parse", "HEAD"])?;
    std::fs::write(repository.join("train.sh"), "echo version two\n")?;
    git(&["commit", "-qam", "two"])?;
    // Over the network, since a runner reads no repository of its own machine.
    let port = ds_tests::free_tcp_port()?;
    let base = format!("--base-path={}", system.folder().display());
    // `git daemon` itself would leave this program running when it is killed.
    let server = Path::new(ds_tests::run("git", &["--exec-path"])?.trim()).join("git-daemon");
    let arguments = ["--listen=127.0.0.1", &format!("--port={port}"), "--export-all", "--reuseaddr", &base];
    let _server = Daemon::start(
        &server,
        arguments.iter().map(|s| (*s).to_owned()).collect(),
        vec![],
        system.folder().join("git.log"),
    )?;
    eventually(|| Ok(std::net::TcpStream::connect(("127.0.0.1", port)).map(Some)?))?;
    let url = format!("git://127.0.0.1:{port}/repository");
    let run = |reference: &str| -> Result<String> {
        system
            .ds(&[
                "run",
                "-p",
                "demo",
                "-I",
                image()?,
                "--repo",
                &url,
                "--ref",
                reference,
                "--",
                "sh",
                "train.sh",
            ])?
            .ok()
    };
    assert_eq!(run("main")?, "version two\n");
    assert_eq!(run(&one)?, "version one\n");
    let answer =
        system.ds(&["run", "-p", "demo", "-I", image()?, "--repo", &url, "--ref", "gone", "--", "true"])?;
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("gone"), "names the reference: {}", answer.stderr);
    runner.tidy()
}

#[test]
fn malformed_records_are_reported_and_the_good_ones_kept() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let good = uuid::Uuid::new_v4();
    let bad = uuid::Uuid::new_v4();
    let script = format!(
        r#"
        echo '[[DOTSCIENCE-RUN:{bad}]]not json[[/DOTSCIENCE-RUN:{bad}]]'
        printf '[[DOTSCIENCE-RUN:{bad}]]{{"summary":{{"\377":"1"}}}}[[/DOTSCIENCE-RUN:{bad}]]\n'
        echo '[[DOTSCIENCE-RUN:{good}]]{{"version":"1","input":["../../etc/passwd"],"summary":{{"a":"1"}}}}[[/DOTSCIENCE-RUN:{good}]]'
        printf '[[DOTSCIENCE-RUN:{bad}]]'; head -c 100000000 /dev/zero | tr '\0' x; echo '[[/DOTSCIENCE-RUN:{bad}]]'
        printf '[[DOTSCIENCE-RUN:{bad}]]{{"version":'
        "#
    );
    let task = system.start_task("demo", &["sh", "-c", &script])?;
    let ended = system.task_end(&task)?;
    assert_eq!(ended["outcome"], "succeeded", "{ended}");
    // The good one, and the one whose text could be repaired.
    assert_eq!(ended["runs"].as_array().map(Vec::len), Some(2), "{ended}");
    let warnings = ended["warnings"].to_string();
    assert!(ended["warnings"].as_array().is_some_and(|w| w.len() >= 4), "{warnings}");
    assert!(warnings.contains("../../etc/passwd"), "{warnings}");
    let run = system.json(&["runs", "show", &good.to_string()])?;
    assert_eq!(run["metrics"]["a"], "1");
    assert_eq!(run["inputs"].as_array().map(Vec::len), Some(0), "{run}");
    assert!(ended["log_bytes"].as_u64() > Some(100_000_000), "every byte of the log is kept: {ended}");
    runner.tidy()
}

#[test]
fn the_time_limit_ends_a_task() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let task = system
        .ds(&[
            "run",
            "-d",
            "-p",
            "demo",
            "-I",
            image()?,
            "--timeout",
            "2s",
            "--",
            "sh",
            "-c",
            "echo 1 > f; sleep 600",
        ])?
        .ok()?;
    let ended = system.task_end(task.trim())?;
    assert_eq!(ended["outcome"], "timed_out", "{ended}");
    assert!(ended["commit"].is_string(), "{ended}");
    runner.tidy()
}

#[test]
fn a_viewer_reads_and_cannot_write_and_a_stranger_sees_nothing() -> Result<()> {
    let system = System::start()?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let created = system.json(&["user", "create", "vera"])?;
    let password = created["password"].as_str().context("a password")?.to_owned();
    let as_vera = |arguments: &[&str]| -> Result<(i32, String)> {
        let output = system
            .command(arguments)
            .env("XDG_CONFIG_HOME", system.folder().join("vera"))
            .env("DS_URL", system.url())
            .env("DOTSCIENCE_USERNAME", "vera")
            .env("DOTSCIENCE_PASSWORD", &password)
            .output()?;
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, error) = as_vera(&["project", "show", "demo"])?;
    assert_eq!(code, 1, "a stranger does not even learn that it exists: {error}");
    system.ds(&["project", "member", "set", "demo", "vera", "viewer"])?.ok()?;
    let (code, error) = as_vera(&["project", "show", "demo"])?;
    assert_eq!(code, 0, "{error}");
    let (code, error) = as_vera(&["run", "-d", "-p", "demo", "--", "true"])?;
    assert_eq!(code, 1);
    assert!(error.contains("viewer") || error.contains("editor"), "says what is missing: {error}");
    Ok(())
}

#[test]
fn a_runners_clock_an_hour_off_changes_nothing() -> Result<()> {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(std::path::Path::new(library).exists(), "apt-get install faketime");
    let system = System::start()?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    for (name, offset) in [("early", "-3600"), ("late", "+3600")] {
        let runner = system.runner_with(
            name,
            &["--label", &format!("clock={name}")],
            &[("LD_PRELOAD", library), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")],
        )?;
        let task = system
            .ds(&[
                "run",
                "-d",
                "-p",
                "demo",
                "-I",
                image()?,
                "--label",
                &format!("clock={name}"),
                "--",
                "sh",
                "-c",
                "date >> clock",
            ])?
            .ok()?;
        assert_eq!(system.task_end(task.trim())?["outcome"], "succeeded");
        runner.tidy()?;
    }
    assert_eq!(system.ds(&["files", "cat", "demo", "clock"])?.ok()?.lines().count(), 2);
    Ok(())
}

#[test]
fn a_used_or_foreign_registration_token_is_refused() -> Result<()> {
    let system = System::start()?;
    let token = system.token("alpha")?;
    let pool = ds_tests::FilePool::create(256)?;
    let attempt = |name: &str, token: &str| -> Result<(i32, String)> {
        let output = system
            .command(&[
                "runner",
                "run",
                "--token",
                token,
                "--dataset",
                &pool.dataset("runner"),
                "--state-dir",
                &system.folder().join(name).to_string_lossy(),
            ])
            .output()?;
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let _registered = {
        let token = system.token("beta")?;
        let first = system.runner_by_token("beta", &token)?;
        let (code, error) = attempt("again", &token)?;
        assert_eq!(code, 1);
        assert!(error.contains("token") && error.contains("used"), "a token works once: {error}");
        first
    };
    let (code, error) = attempt("broken", "dsr1.nonsense")?;
    assert_ne!(code, 0);
    assert!(error.contains("token"), "{error}");
    let mut foreign: Vec<String> = token.split('.').map(str::to_owned).collect();
    foreign[2] = "00".repeat(32);
    let (code, error) = attempt("foreign", &foreign.join("."))?;
    assert_eq!(code, 1);
    assert!(error.contains("fingerprint"), "the secret is not sent to another hub: {error}");
    Ok(())
}
