//! A dry run, shown.

use anyhow::Result;
use ds_transfer::tree::{Missing, Planned};
use ds_zfs::replication::{Mark, Step, Verdict};
use serde::Serialize;

use crate::output::{Output, Table, text};

#[derive(Serialize)]
struct Plan {
    targets: Vec<TargetPlan>,
    /// Bytes of all streams, where ZFS can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_bytes: Option<u64>,
}

#[derive(Serialize)]
struct TargetPlan {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    datasets: Vec<DatasetView>,
}

#[derive(Serialize)]
struct DatasetView {
    path: String,
    into: String,
    /// `up_to_date`, `no_snapshot`, `send`, `diverged` or `blocked`.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct StepView {
    /// `make_place`, `abandon`, `resume`, `full`, `incremental` or `clone`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
}

/// Prints what a look found.
pub(super) fn print(
    out: &Output,
    looked: &[(String, ds_transfer::Result<Missing>)],
    estimate_bytes: Option<u64>,
) -> Result<()> {
    let targets: Vec<_> = looked.iter().map(|(target, missing)| view(target, missing)).collect();
    if out.json {
        return out.print_json(&Plan { targets, estimate_bytes });
    }
    let mut table = Table::new(["TARGET", "DATASET", "WHAT", "FROM", "=TO"]);
    for target in &targets {
        if let Some(error) = &target.error {
            out.warn(format_args!("{}: {error}", target.target));
        }
        for dataset in &target.datasets {
            table.row(row(&target.target, dataset));
        }
    }
    out.print_table(&table)?;
    if let Some(bytes) = estimate_bytes.filter(|bytes| *bytes > 0) {
        out.note(format_args!("about {} would be sent", text::size(bytes)));
    }
    Ok(())
}

fn row(target: &str, dataset: &DatasetView) -> [String; 5] {
    let path = if dataset.path.is_empty() { "(root)" } else { &dataset.path };
    let streams: Vec<_> = dataset.steps.iter().filter(|step| step.snapshot.is_some()).collect();
    let what = match (dataset.verdict, streams.len()) {
        ("send", 0) => "make a place".to_owned(),
        ("send", count) => text::count(count as u64, "stream"),
        ("up_to_date", _) => "up to date".to_owned(),
        ("no_snapshot", _) => "no snapshot".to_owned(),
        (verdict, _) => format!("{verdict}: {}", dataset.reason.as_deref().unwrap_or_default()),
    };
    let from = streams.first().map(|step| step.from.clone().unwrap_or_else(|| step.kind.to_owned()));
    let to = streams.last().and_then(|step| step.snapshot.clone());
    [target.to_owned(), path.to_owned(), what, from.unwrap_or_default(), to.unwrap_or_default()]
}

fn view(target: &str, missing: &ds_transfer::Result<Missing>) -> TargetPlan {
    let (error, plans): (_, &[Planned]) = match missing {
        Ok(missing) => (None, &missing.plans),
        Err(error) => (Some(format!("{:#}", causes(error))), &[]),
    };
    TargetPlan { target: target.to_owned(), error, datasets: plans.iter().map(dataset).collect() }
}

fn dataset(planned: &Planned) -> DatasetView {
    let (verdict, steps, reason) = match (&planned.plan.verdict, &planned.mode) {
        (Verdict::UpToDate, _) => ("up_to_date", Vec::new(), None),
        (Verdict::NoSnapshot, _) => ("no_snapshot", Vec::new(), None),
        (Verdict::Steps(_), Err(why)) => ("blocked", Vec::new(), Some(why.to_string())),
        (Verdict::Steps(steps), Ok(_)) => ("send", steps.iter().map(step).collect(), None),
        (Verdict::Diverged { common, newer }, _) => {
            let since = common.as_deref().unwrap_or("the beginning");
            ("diverged", Vec::new(), Some(format!("{newer} snapshots of its own since {since}")))
        }
        (Verdict::Blocked(why), _) => ("blocked", Vec::new(), Some(why.to_string())),
    };
    let mode = planned.mode.as_ref().ok().filter(|_| verdict == "send").map(ToString::to_string);
    DatasetView {
        path: planned.plan.path.clone(),
        into: planned.plan.into.clone(),
        verdict,
        mode,
        steps,
        reason,
    }
}

fn step(step: &Step) -> StepView {
    let (kind, base) = match step {
        Step::MakePlace => ("make_place", None),
        Step::Abandon => ("abandon", None),
        Step::Resume { .. } => ("resume", None),
        Step::Full { .. } => ("full", None),
        Step::Incremental { from, .. } => ("incremental", Some(from)),
        Step::Clone { from, .. } => ("clone", Some(from)),
    };
    let from = base.map(|from| {
        let mark = if from.mark == Mark::Bookmark { '#' } else { '@' };
        format!("{mark}{}", from.name)
    });
    StepView { kind, from, snapshot: step.brings().map(|to| to.name.clone()) }
}

/// An error with its causes, as [`anyhow`] shows them.
fn causes(error: &ds_transfer::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
