//! An attached `ds run`: Ctrl-C, a hub that goes away meanwhile, and output of every kind.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use ds_tests::{System, eventually, image};

fn attached(system: &System, script: &str) -> Result<Child> {
    let image = image()?;
    let mut command = system.command(&["run", "-p", "demo", "-I", image, "--", "sh", "-c", script]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

#[test]
fn ctrl_c_ends_the_task() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let mut child = attached(&system, "echo started; sleep 600")?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    assert_eq!(lines.next().context("output")??, "started", "live, not at the end");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let status = eventually(|| Ok(child.try_wait()?))?;
    assert_eq!(status.code(), Some(130));
    let tasks = system.json(&["task", "ls"])?;
    assert_eq!(tasks["items"][0]["outcome"], "cancelled", "{tasks}");
    runner.tidy()
}

#[test]
fn a_hub_that_is_killed_meanwhile_costs_no_byte_of_output() -> Result<()> {
    let mut system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let script = "for i in $(seq 1 60); do echo line $i; sleep 0.1; done; exit 7";
    let mut child = attached(&system, script)?;
    let mut output = BufReader::new(child.stdout.take().context("piped")?);
    let mut first = String::new();
    output.read_line(&mut first)?;
    system.hub.kill();
    std::thread::sleep(std::time::Duration::from_secs(1));
    system.hub.restart()?;
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    let expected: Vec<String> = (1..=60).map(|i| format!("line {i}")).collect();
    assert_eq!((first + &rest).lines().collect::<Vec<_>>(), expected);
    assert_eq!(child.wait()?.code(), Some(7), "the command's own exit code");
    runner.tidy()
}

#[test]
fn output_is_passed_on_byte_for_byte() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let mut child =
        attached(&system, r"printf '\000\377\r\n\033[1mbold'; head -c 200000 /dev/zero | tr '\0' x")?;
    let mut output = Vec::new();
    child.stdout.take().context("piped")?.read_to_end(&mut output)?;
    assert_eq!(child.wait()?.code(), Some(0));
    let mut expected = b"\0\xff\r\n\x1b[1mbold".to_vec();
    expected.resize(expected.len() + 200_000, b'x');
    // Docker may end the last line of an output that did not.
    assert_eq!(output.strip_suffix(b"\n").unwrap_or(&output), expected);
    runner.tidy()
}
