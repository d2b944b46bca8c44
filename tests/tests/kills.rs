//! `kill -9` of hub, runner and store at random points of tasks and transfers: nothing acknowledged is lost, nothing is recorded
//! twice or by halves, nothing is left behind.
//!
//! `DS_KILL_ROUNDS` sets the number of rounds (default 4), `DS_KILL_SEED` the seed; a failure prints its seed.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use ds_tests::{Dice, FilePool, System, TestRunner, eventually, number};

#[test]
fn hub_and_runner_are_killed() -> Result<()> {
    rounds_of_kills(System::start()?)
}

#[test]
fn hub_store_and_runner_are_killed_as_three_processes() -> Result<()> {
    rounds_of_kills(System::start_apart()?)
}

#[test]
fn a_cancelled_tasks_work_is_kept_though_the_hub_was_away_for_long() -> Result<()> {
    let mut system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    // It ignores the first signal for a while, so that the hub goes away between the request to cancel and the end.
    let script = "trap 'sleep 5; exit 9' TERM; echo kept > file; echo started; while :; do sleep 0.1; done";
    let task = system.start_task("demo", &["sh", "-c", script])?;
    system.task_until(&task, |t| t["log_bytes"].as_u64() > Some(0))?;
    system.ds(&["task", "cancel", &task])?.ok()?;
    sleep(Duration::from_secs(1));
    system.hub.kill();
    // Longer than the silence after which a hub takes a runner for gone.
    sleep(Duration::from_secs(35));
    system.hub.restart()?;
    system.ready()?;
    let ended = system.task_end(&task)?;
    ensure!(ended["outcome"] == "cancelled", "{ended}");
    ensure!(system.ds(&["files", "cat", "demo", "file"])?.ok()? == "kept\n", "{ended}");
    runner.tidy()
}

fn rounds_of_kills(mut system: System) -> Result<()> {
    let seed = number("DS_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = number("DS_KILL_ROUNDS").unwrap_or(4);
    let mut dice = Dice::new(seed);
    let mut runner = system.runner_with("alpha", &["--slots", "2"], &[])?;
    for project in ["demo", "other"] {
        system.ds(&["project", "create", project])?.ok()?;
    }
    for round in 0..rounds {
        one_round(&mut system, &mut runner, &mut dice, round)
            .with_context(|| format!("round {round} of DS_KILL_SEED={seed}"))?;
    }
    nothing_left(&system, &runner).with_context(|| format!("after DS_KILL_SEED={seed}"))
}

fn one_round(system: &mut System, runner: &mut TestRunner, dice: &mut Dice, round: u64) -> Result<()> {
    let id = uuid::Uuid::new_v4();
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i of {round}; sleep 0.2; done; \
         head -c 20000000 /dev/urandom > blob; sha256sum blob > sum; echo {round} >> rounds; \
         echo '[[DOTSCIENCE-RUN:{id}]]{{\"version\":\"1\",\"output\":[\"rounds\"]}}[[/DOTSCIENCE-RUN:{id}]]'"
    );
    let task = system.start_task("demo", &["sh", "-c", &script])?;
    let beside =
        system.start_task("other", &["sh", "-c", "sleep 1; head -c 5000000 /dev/urandom > noise"])?;
    for _ in 0..=dice.below(3) {
        sleep(Duration::from_millis(dice.below(4000)));
        kill_one(system, runner, dice)?;
    }
    for task in [&task, &beside] {
        let ended = system.task_end(task)?;
        ensure!(ended["outcome"] == "succeeded", "{ended}");
        ensure!(ended["runs"].as_array().map(Vec::len) == Some(1), "recorded once: {ended}");
        ensure!(ended["branch"].is_null(), "each is alone in its project: {ended}");
    }
    let log = system.ds(&["task", "logs", &task])?.ok()?;
    for line in 1..=10 {
        let wanted = format!("line {line} of {round}\n");
        ensure!(log.matches(&wanted).count() == 1, "line {line} stands once in the log: {log}");
    }
    let rounds = system.ds(&["files", "cat", "demo", "rounds"])?.ok()?;
    ensure!(rounds.lines().count() as u64 == round + 1, "every round's change is there: {rounds}");
    let away = system.folder().join(format!("blob-{round}"));
    system.ds(&["files", "get", "demo", "blob", "-o", &away.to_string_lossy()])?.ok()?;
    let sum = system.ds(&["files", "cat", "demo", "sum"])?.ok()?;
    let fetched = if away.is_dir() { away.join("blob") } else { away };
    let ours = ds_tests::run("sha256sum", &[&fetched.to_string_lossy()])?;
    ensure!(
        sum.split_whitespace().next() == ours.split_whitespace().next(),
        "the bytes arrived: {sum} {ours}"
    );
    runner.tidy()
}

fn kill_one(system: &mut System, runner: &mut TestRunner, dice: &mut Dice) -> Result<()> {
    let pause = Duration::from_millis(dice.below(1500));
    let victims = if system.store.is_some() { 3 } else { 2 };
    let victim = match (dice.below(victims), &mut system.store) {
        (0, _) => &mut runner.daemon,
        (2, Some(store)) => store,
        _ => &mut system.hub,
    };
    victim.kill();
    sleep(pause);
    victim.restart()?;
    system.ready()
}

/// What no commit needs: branches at the store, and processes that still move bytes of these pools.
fn nothing_left(system: &System, runner: &TestRunner) -> Result<()> {
    runner.tidy()?;
    eventually(|| {
        let branches: Vec<String> = system
            .pool
            .list("store")?
            .into_iter()
            .filter(|n| n.contains("/store/b/") && n.contains('@'))
            .collect();
        let moving: Vec<String> =
            [&system.pool, &runner.pool].into_iter().map(moving).collect::<Result<Vec<_>>>()?.concat();
        ensure!(branches.is_empty() && moving.is_empty(), "left: {branches:?} {moving:?}");
        Ok(Some(()))
    })
}

/// Command lines of `zfs` processes about a pool.
fn moving(pool: &FilePool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let Ok(line) = std::fs::read(process?.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.starts_with("zfs ") && line.contains(pool.name()) {
            found.push(line);
        }
    }
    Ok(found)
}
