//! Pools that run full: on the runner under a task, and at the store under a transfer.

use anyhow::Result;
use ds_tests::{System, image};

#[test]
fn a_full_pool_on_the_runner_fails_the_command_and_nothing_else() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner_of_size("small", 128)?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let script = "echo kept > first; head -c 300000000 /dev/urandom > big; code=$?; rm -f big; exit $code";
    let answer = system.ds(&["run", "-p", "demo", "-I", image()?, "--", "sh", "-c", script])?;
    assert_ne!(answer.code, 0, "the command saw the full disk");
    assert!(answer.stderr.to_lowercase().contains("space"), "{}{}", answer.stdout, answer.stderr);
    assert_eq!(system.ds(&["files", "cat", "demo", "first"])?.ok()?, "kept\n", "the rest is committed");
    runner.tidy()?;

    let again = system.start_task("demo", &["cat", "first"])?;
    assert_eq!(system.task_end(&again)?["outcome"], "succeeded", "the runner goes on");
    runner.tidy()?;

    let answer =
        system.ds(&["run", "-p", "demo", "-I", image()?, "--", "sh", "-c", "cat /dev/urandom > big"])?;
    assert_ne!(answer.code, 0);
    let commit = system.json(&["project", "show", "demo"])?["head"].as_str().map(str::to_owned);
    let files = system.json(&["files", "ls", commit.as_deref().unwrap_or_default()])?.to_string();
    assert!(files.contains("big"), "what fits is committed even in a pool without a free block: {files}");
    runner.tidy()
}

#[test]
fn a_full_store_is_named_and_the_task_can_still_be_cancelled() -> Result<()> {
    let system = System::start_of_size(128)?;
    let runner = system.runner("large")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let task = system.start_task("demo", &["sh", "-c", "head -c 300000000 /dev/urandom > big"])?;
    let stuck = system.task_until(&task, |t| {
        t["state"] == "ended" || t["detail"].as_str().is_some_and(|d| d.contains("no space"))
    })?;
    assert_eq!(stuck["phase"], "committing", "what the task wrote is not given up by itself: {stuck}");
    system.ds(&["task", "cancel", &task])?.ok()?;
    let ended = system.task_end(&task)?;
    assert!(ended["error"].as_str().is_some_and(|e| e.contains("no space")), "{ended}");
    assert!(ended["commit"].is_null(), "no commit without a receipt: {ended}");
    runner.tidy()?;
    let branches: Vec<String> =
        system.pool.list("store")?.into_iter().filter(|n| n.matches('/').count() > 3).collect();
    assert!(branches.is_empty(), "no half-received dataset: {branches:?}");
    // The store goes on with what fits.
    let small = system.start_task("demo", &["sh", "-c", "echo small > file"])?;
    assert_eq!(system.task_end(&small)?["outcome"], "succeeded");
    Ok(())
}
