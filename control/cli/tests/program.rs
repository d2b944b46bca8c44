//! The program as a process: exit codes, streams, files.

use std::{
    io::Read,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

fn ds(folder: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds"));
    command.args(arguments).env_clear().env("XDG_CONFIG_HOME", folder).stdin(Stdio::null());
    command
}

/// An address on which nothing listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn failures_exit_with_1_and_wrong_usage_with_2_and_stdout_stays_empty() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code, words) in [
        (vec!["whoami"], 1, "no answer from the hub"),
        (vec!["run", "--memory", "1K", "--", "true"], 2, "6 MiB"),
        (vec!["run", "--", ""], 2, "command is empty"),
        (vec!["frobnicate"], 2, "unrecognized subcommand"),
        (vec!["hub"], 2, "--dataset"),
        (vec!["store", "--dataset", "p/s", "--state-dir", "none"], 1, "no keys for a store"),
    ] {
        let output = ds(folder.path(), &arguments).env("DS_URL", nowhere()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_hub_is_remembered_in_a_private_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = nowhere();
    assert!(ds(folder.path(), &["set", "server-url", &url]).status().unwrap().success());
    let file = folder.path().join("dotstream/config.json");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let output = ds(folder.path(), &["whoami"]).output().unwrap();
    assert!(stderr(&output).contains(&url), "{}", stderr(&output));
}

#[test]
fn a_closed_stdout_ends_it_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = ds(folder.path(), &["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the script is written, or in the midst of it: it is larger than a pipe holds.
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}
