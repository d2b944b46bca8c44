//! From a container's exit to its run being visible at the hub, for a change of 1 MB in a small and in a large workspace.
//!
//! The container prints the machine's uptime (10 ms steps) as its last act, so that starting it is not part of the figure;
//! ending it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ds_tests::{System, TestRunner, image};

use crate::{
    Scale,
    api::Api,
    report::{Better, Measurement, Report, quantile},
};

/// How long one task may take, the filling of the large workspace included.
const PATIENCE: Duration = Duration::from_mins(10);

pub(crate) async fn measure(scale: Scale) -> Result<Report> {
    let (small, large, rounds) = match scale {
        Scale::Full => (100, 2_000, 7),
        Scale::Quick => (20, 200, 3),
    };
    let system = System::start_of_size(16_384)?;
    let runner = system.runner_with("bench", &["--slots", "1"], &[])?;
    let api = Api::of(&system)?;
    for (project, megabytes) in [("small", small), ("large", large)] {
        system.ds(&["project", "create", project])?.ok()?;
        // Many files of 10 MB, incompressible.
        let script =
            format!("for i in $(seq {}); do head -c 10000000 /dev/urandom > data-$i; done", megabytes / 10);
        one_task(&system, &runner, &api, project, &script).await?;
    }
    let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (project, times) in [("small", &mut of_small), ("large", &mut of_large)] {
            times.push(
                one_task(&system, &runner, &api, project, "head -c 1000000 /dev/urandom > change").await?,
            );
        }
    }
    let (small_median, large_median) = (quantile(&mut of_small, 0.5), quantile(&mut of_large, 0.5));
    let name = |mb: u32| format!("exit to visible run, 1 MB changed in {mb} MB");
    Ok(Report::new(
        "commit",
        vec![
            Measurement::alone(name(small), small_median, "s", Better::Lower).goal(2.0).runs(rounds),
            Measurement::alone(name(large), large_median, "s", Better::Lower).goal(2.0).runs(rounds),
            Measurement::alone("large against small workspace", large_median, "s", Better::Lower)
                .beside(format!("{small} MB"), small_median)
                .goal(1.3)
                .runs(rounds),
        ],
    ))
}

/// Seconds from the end of the task's command to its run being visible.
async fn one_task(
    system: &System,
    runner: &TestRunner,
    api: &Api,
    project: &str,
    script: &str,
) -> Result<f64> {
    let id = uuid::Uuid::new_v4().to_string();
    let script = format!(
        "{script}; echo '[[DOTSCIENCE-RUN:{id}]]{{\"version\":\"1\"}}[[/DOTSCIENCE-RUN:{id}]]'; cat /proc/uptime"
    );
    let image = image()?;
    let task = system.ds(&["run", "-d", "-p", project, "-I", image, "--", "sh", "-c", &script])?.ok()?;
    let path = format!("/runs/{id}");
    let start = Instant::now();
    while api.fetch(&path).await.is_err() {
        ensure!(start.elapsed() < PATIENCE, "task {} recorded no run", task.trim());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let visible = uptime(&std::fs::read_to_string("/proc/uptime")?)?;
    runner.tidy()?;
    let log = system.ds(&["task", "logs", task.trim()])?.ok()?;
    let ended = uptime(log.lines().last().context("the container prints its uptime last")?)?;
    Ok(visible - ended)
}

/// Seconds since boot, from a line of `/proc/uptime`.
fn uptime(line: &str) -> Result<f64> {
    Ok(line.split_whitespace().next().context("an empty uptime")?.parse()?)
}
