//! Torture: at many points chosen by a seed, the processes that move snapshots are killed, the network between them is cut or
//! goes mad, or the disk is full. Every snapshot arrives all the same, byte for byte and under its GUID; none that was
//! acknowledged is ever gone; a lost link costs at most one window; and nothing is left behind.
//!
//! `DS_TORTURE_POINTS` sets the number of points (default 12), `DS_TORTURE_SEED` the seed, and `DS_TORTURE_PERCENT` scales the
//! data, for a machine that is slow. A failure prints its seed. Start reading at `plan`, then `point`.

mod edits;
mod plan;
mod point;
mod traces;

use std::time::Instant;

use anyhow::{Context, Result};
use ds_link::{Transport, Transports};
use ds_tests::{Cloud, mover::Way, number};

use self::{
    plan::{Fault, Moment, Plan, Plans, VolumeIs},
    point::Tortured,
};

/// Fixed, so that a red check is about a change and not about luck; chosen for a slice with every kind of fault in it.
const DEFAULT_SEED: u64 = 482;
const DEFAULT_POINTS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_snapshot_arrives_whatever_happens() -> Result<()> {
    let seed = number("DS_TORTURE_SEED").unwrap_or(DEFAULT_SEED);
    let points = number("DS_TORTURE_POINTS").unwrap_or(DEFAULT_POINTS);
    let mut tortured = Tortured::new(Cloud::start(seed).await?);
    let mut plans = Plans::new(seed, number("DS_TORTURE_PERCENT").unwrap_or(100));
    for number in 0..points {
        let (plan, start) = (plans.next(), Instant::now());
        let outcome = match tortured.point(&plan).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let said = tortured.cloud.last_words();
                return Err(error)
                    .context(format!("point {number} of DS_TORTURE_SEED={seed}: {plan:?}\n{said}"));
            }
        };
        println!("{number:3} {:5.1} s {outcome} {plan}", start.elapsed().as_secs_f32());
    }
    tortured.finish().await.with_context(|| format!("after {points} points of DS_TORTURE_SEED={seed}"))?;
    println!("{points} points of DS_TORTURE_SEED={seed}: {}", tortured.counts);
    Ok(())
}

const TCP: Transports = Transports::Only(Transport::Tcp);

/// Each end sees for itself that its lanes over TCP stand still. The one that sends may be the first, and sends again over a new one
/// what the other believes to be under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lanes_whose_loss_one_end_sees_first_cost_nothing() -> Result<()> {
    all_go_on(&[(Way::Pull, TCP)], Fault::ForgetFlows, 10 << 20).await
}

/// No kernel sees anything: all is acknowledged, and there is room for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_path_that_takes_everything_and_lets_nothing_out_is_left() -> Result<()> {
    // A transfer over QUIC has lanes over TCP by then.
    all_go_on(
        &[(Way::Push, TCP), (Way::Pull, TCP), (Way::Push, Transports::Auto)],
        Fault::SwallowFlows,
        40 << 20,
    )
    .await
}

/// Transfers meet `fault` when so much is written.
async fn all_go_on(transfers: &[(Way, Transports)], fault: Fault, written: u64) -> Result<()> {
    let mut tortured = Tortured::new(Cloud::start(DEFAULT_SEED).await?);
    for (way, over) in transfers {
        let plan = Plan {
            way: *way,
            over: *over,
            fault,
            moment: Moment::Written(written),
            // What is left does not fit into what is under way, or the last word could be what is lost.
            bytes: 160 << 20,
            volume: VolumeIs::New,
            seed: DEFAULT_SEED,
        };
        let start = Instant::now();
        let outcome = tortured.point(&plan).await.with_context(|| tortured.cloud.last_words())?;
        println!("{:5.1} s {outcome} {plan}", start.elapsed().as_secs_f32());
    }
    tortured.finish().await
}
