//! Rounds: once, or again and again.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::Result;
use ds_transfer::tree::{Missing, Pace, Report, Route, Sync, Task};
use ds_zfs::replication::{Divergence, Encrypted, History, Policy, Schedule, Selection, Verdict};
use time::{OffsetDateTime, UtcOffset};
use tokio_util::sync::CancellationToken;

use super::{
    args::{OnDivergence, RunArgs},
    meter::Meter,
    plan_view, result_view,
};
use crate::{context::Context, output::text};

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is there.
    Done,
    /// Some is there, and some is not.
    Partly,
    /// Nothing could be done.
    Failed,
}

type Looked = Vec<(String, ds_transfer::Result<Missing>)>;

/// All rounds of one command.
pub(super) struct Rounds<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) context: &'a Context,
    pub(super) route: Route,
    pub(super) stop: &'a CancellationToken,
}

impl Rounds<'_> {
    /// One round, whose outcome it gives; or, with a schedule, rounds until a signal ends them.
    pub(super) async fn run(&self) -> Result<Outcome> {
        let Some(schedule) = &self.args.every else { return self.round().await };
        let mut last = Outcome::Done;
        while !self.stop.is_cancelled() {
            last = self.round().await.unwrap_or_else(|error| {
                tracing::warn!("a round failed, the next one comes: {error:#}");
                Outcome::Failed
            });
            self.wait(schedule).await;
        }
        Ok(last)
    }

    async fn wait(&self, schedule: &Schedule) {
        let now = OffsetDateTime::now_utc().to_offset(utc_offset());
        let Some(next) = schedule.next_after(now) else { return self.stop.cancelled().await };
        let pause = Duration::try_from(next - now).unwrap_or_default();
        tracing::info!(next = %next, "waiting for the next round");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn round(&self) -> Result<Outcome> {
        let started = text::now_ms();
        let sync = Arc::new(Sync::new(self.route.clone(), self.task()?, self.stop.clone()));
        let looked = sync.look().await?;
        if self.args.dry_run {
            let estimate = sync.estimate(&looked).await;
            plan_view::print(&self.context.out, &looked, estimate)?;
            return Ok(of_look(&looked));
        }
        let meter = Meter::start(sync.estimate(&looked).await);
        let watch = meter.watch();
        let report = tokio::select! {
            report = sync.carry_out(looked, watch) => report,
            never = meter.tell(&self.context.out) => match never {},
        };
        meter.finish();
        let outcome = of_report(&report);
        result_view::print(&self.context.out, &report, text::now_ms() - started)?;
        Ok(outcome)
    }

    fn task(&self) -> Result<Task> {
        let args = self.args;
        let pace = args.limit.as_deref().map(|text| Pace::read(text, utc_offset())).transpose()?;
        Ok(Task {
            policy: Policy {
                datasets: Selection { include: args.include.clone(), exclude: args.exclude.clone() },
                snapshots: Selection {
                    include: args.snapshots.clone(),
                    exclude: args.exclude_snapshots.clone(),
                },
                history: if args.newest { History::Newest } else { History::Whole },
                divergence: match args.on_divergence {
                    OnDivergence::Report => Divergence::Report,
                    OnDivergence::Beside => Divergence::Beside,
                },
                encrypted: if args.decrypt { Encrypted::Plain } else { Encrypted::Raw },
            },
            first: args.first.clone(),
            parallel: args.parallel.into(),
            pace: pace.map(Arc::new),
            keep: args.keep.clone(),
            keep_source: args.keep_source.clone(),
        })
    }
}

/// Of a dry run: whether all of it could be done.
fn of_look(looked: &Looked) -> Outcome {
    let (mut good, mut bad) = (0, 0);
    for (_, missing) in looked {
        let Ok(missing) = missing else {
            bad += 1;
            continue;
        };
        for planned in &missing.plans {
            let fine = match planned.plan.verdict {
                Verdict::Steps(_) => planned.mode.is_ok(),
                Verdict::UpToDate | Verdict::NoSnapshot => true,
                Verdict::Diverged { .. } | Verdict::Blocked(_) => false,
            };
            *(if fine { &mut good } else { &mut bad }) += 1;
        }
    }
    outcome(good, bad)
}

fn of_report(report: &Report) -> Outcome {
    let (mut good, mut bad) = (0, 0);
    for target in &report.targets {
        bad += u32::from(target.error.is_some());
        for dataset in &target.datasets {
            *(if dataset.error.is_some() { &mut bad } else { &mut good }) += 1;
        }
    }
    outcome(good, bad)
}

fn outcome(good: u32, bad: u32) -> Outcome {
    match (good, bad) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::Partly,
    }
}

/// How far this machine's clocks on the wall are ahead of UTC now. The standard library does not know time zones,
/// and what reads them for it refuses to once there are threads.
fn utc_offset() -> UtcOffset {
    let said = Command::new("date").arg("+%z").output().ok();
    let text =
        said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    read_offset(&text).unwrap_or_else(|| {
        tracing::warn!("`date +%z` says {text:?}: times are taken as UTC");
        UtcOffset::UTC
    })
}

/// Reads `+0230`.
fn read_offset(text: &str) -> Option<UtcOffset> {
    let sign = match text.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let number = |part: Option<&str>| part?.parse::<i8>().ok();
    let (hours, minutes) = (number(text.get(1..3))?, number(text.get(3..5))?);
    UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_the_clock_are_read() {
        let seconds = |text: &str| read_offset(text).map(UtcOffset::whole_seconds);
        assert_eq!(seconds("+0000"), Some(0));
        assert_eq!(seconds("+0530"), Some(19_800));
        assert_eq!(seconds("-0330"), Some(-12_600));
        for wrong in ["", "0530", "+5", "+ab00", "CET"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn some_good_and_some_bad_is_partly() {
        assert_eq!(outcome(0, 0), Outcome::Done);
        assert_eq!(outcome(3, 0), Outcome::Done);
        assert_eq!(outcome(0, 2), Outcome::Failed);
        assert_eq!(outcome(1, 1), Outcome::Partly);
    }
}
