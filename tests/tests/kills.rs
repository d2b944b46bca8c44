//! `kill -9` of hub and runner at random points of a task: nothing acknowledged is lost, nothing is recorded twice or by halves,
//! nothing is left behind. The store is a part of the hub's process here, so killing the hub kills both.
//!
//! `DS_KILL_ROUNDS` sets the number of rounds (default 3), `DS_KILL_SEED` the seed; a failure prints its seed.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use ds_tests::System;

/// `SplitMix64`: enough randomness for choosing moments, repeatable by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn killed_at_random_points_every_task_is_recorded_once_and_whole() -> Result<()> {
    let seed = number("DS_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = number("DS_KILL_ROUNDS").unwrap_or(3);
    let mut dice = Dice(seed);
    let mut system = System::start()?;
    let mut runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    for round in 0..rounds {
        one_round(&mut system, &mut runner, &mut dice, round)
            .with_context(|| format!("round {round} of DS_KILL_SEED={seed}"))?;
    }
    Ok(())
}

fn one_round(
    system: &mut System,
    runner: &mut ds_tests::TestRunner,
    dice: &mut Dice,
    round: u64,
) -> Result<()> {
    let id = uuid::Uuid::new_v4();
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i of {round}; sleep 0.2; done; \
         head -c 20000000 /dev/urandom > blob; sha256sum blob > sum; echo {round} >> rounds; \
         echo '[[DOTSCIENCE-RUN:{id}]]{{\"version\":\"1\",\"output\":[\"rounds\"],\"summary\":{{\"round\":\"{round}\"}}}}[[/DOTSCIENCE-RUN:{id}]]'"
    );
    let task = system.start_task("demo", &["sh", "-c", &script])?;
    for _ in 0..=dice.below(3) {
        sleep(Duration::from_millis(dice.below(4000)));
        let pause = Duration::from_millis(dice.below(1500));
        if dice.below(2) == 0 {
            system.hub.kill();
            sleep(pause);
            system.hub.restart()?;
            system.ready()?;
        } else {
            runner.daemon.kill();
            sleep(pause);
            runner.daemon.restart()?;
        }
    }
    let ended = system.task_end(&task)?;
    ensure!(ended["outcome"] == "succeeded", "{ended}");
    ensure!(ended["runs"].as_array().map(Vec::len) == Some(1), "recorded once: {ended}");
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
    let output = std::process::Command::new("sha256sum").arg(fetched(&away)).output()?;
    let ours = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        sum.split_whitespace().next() == ours.split_whitespace().next(),
        "the bytes arrived: {sum} {ours}"
    );
    runner.tidy()
}

/// `files get -o PATH` of one file writes PATH, or PATH/<name> where PATH is a folder.
fn fetched(path: &std::path::Path) -> std::path::PathBuf {
    if path.is_dir() { path.join("blob") } else { path.to_owned() }
}
