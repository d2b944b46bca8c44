//! The hub: idle memory, recording runs, and a page out of many.

use std::time::Instant;

use anyhow::Result;
use ds_tests::System;
use serde_json::{Value, json};

use crate::{
    Scale,
    api::Api,
    report::{Better, Measurement, Report, quantile},
};

/// Runs recorded by one request in the batched measurement; the API's own limit is 1,000.
const BATCH: usize = 500;
/// Callers that record at once in the single-run measurement.
const CALLERS: usize = 16;

pub(crate) async fn measure(scale: Scale) -> Result<Report> {
    let (total, pages, singles) = match scale {
        Scale::Full => (100_000, 500, 5_000),
        Scale::Quick => (20_000, 100, 500),
    };
    let system = System::start()?;
    system.ds(&["project", "create", "bench"])?.ok()?;
    let idle = system.hub.memory_bytes()?;
    let api = Api::of(&system)?;

    let (single_rate, recorded) = record_one_by_one(&api, singles).await?;
    let (batch_rate, recorded) = record_in_batches(&api, recorded, total).await?;
    let mut times = fetch_pages(&api, pages).await?;
    let loaded = system.hub.memory_bytes()?;

    let mebibyte = f64::from(1 << 20);
    Ok(Report::new(
        "control",
        vec![
            Measurement::alone(
                "hub with store, idle: resident memory",
                idle as f64 / mebibyte,
                "MiB",
                Better::Lower,
            )
            .goal(50.0),
            Measurement::alone(
                format!("hub with store, after {recorded} runs: resident memory"),
                loaded as f64 / mebibyte,
                "MiB",
                Better::Lower,
            ),
            Measurement::alone(
                format!("runs recorded, {BATCH} a request, one caller"),
                batch_rate,
                "runs/s",
                Better::Higher,
            )
            .goal(1000.0)
            .runs(recorded / BATCH),
            Measurement::alone(
                format!("runs recorded, one a request, {CALLERS} callers"),
                single_rate,
                "runs/s",
                Better::Higher,
            )
            .runs(singles),
            Measurement::alone(
                format!("page of 50 runs out of {recorded}, filtered, by a metric: p50"),
                quantile(&mut times, 0.5),
                "ms",
                Better::Lower,
            )
            .runs(pages),
            Measurement::alone(
                format!("page of 50 runs out of {recorded}, filtered, by a metric: p99"),
                quantile(&mut times, 0.99),
                "ms",
                Better::Lower,
            )
            .goal(50.0)
            .runs(pages),
        ],
    ))
}

async fn record_one_by_one(api: &Api, count: usize) -> Result<(f64, usize)> {
    let start = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let api = api.clone();
        tokio::spawn(async move {
            for n in (caller..count).step_by(CALLERS) {
                api.post("/projects/bench/runs", &json!({ "runs": [run(n)] })).await?;
            }
            anyhow::Ok(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok((count as f64 / start.elapsed().as_secs_f64(), count))
}

async fn record_in_batches(api: &Api, mut recorded: usize, total: usize) -> Result<(f64, usize)> {
    let (start, before) = (Instant::now(), recorded);
    while recorded < total {
        let runs: Vec<Value> = (recorded..recorded + BATCH).map(run).collect();
        api.post("/projects/bench/runs", &json!({ "runs": runs })).await?;
        recorded += BATCH;
    }
    Ok(((recorded - before) as f64 / start.elapsed().as_secs_f64(), recorded))
}

/// Milliseconds for each page; the pages differ in filter, order and position.
async fn fetch_pages(api: &Api, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let order = if n.is_multiple_of(2) { "desc" } else { "asc" };
        let filter = match n % 3 {
            0 => format!("parameter.depth={}", n % 8),
            1 => format!("metric.loss<0.{}", 2 + n % 7),
            _ => "label.team=red".to_owned(),
        };
        let path =
            format!("/projects/bench/runs?limit=50&sort=metric.accuracy&order={order}&filter={filter}");
        let start = Instant::now();
        let page = api.fetch(&path).await?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        anyhow::ensure!(page["items"].as_array().map(Vec::len) == Some(50), "a full page");
    }
    Ok(times)
}

/// A run like those of a parameter search; spread by a fixed permutation, so that order in time is no order by metric.
fn run(n: usize) -> Value {
    let spread =
        |salt: usize| (n.wrapping_mul(2_654_435_761).wrapping_add(salt) % 100_003) as f64 / 100_003.0;
    json!({
        "id": uuid::Uuid::new_v4().to_string(),
        "description": format!("try {n}"),
        "workload_file": "train.py",
        "parameters": { "depth": (n % 8).to_string(), "rate": format!("{:.4}", spread(7)), "seed": n.to_string() },
        "metrics": { "accuracy": format!("{:.6}", spread(0)), "loss": format!("{:.6}", spread(41)) },
        "labels": { "team": if n.is_multiple_of(2) { "red" } else { "blue" } },
    })
}
