//! Carrying out plans: several datasets at once, each after those that it hangs on, and for all targets together.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ds_link::apart;
use ds_zfs::{
    StreamMode,
    replication::{Pattern, Step, Verdict},
};
use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::{
    moving::{self, Means, Stream},
    sync::{DatasetReport, Event, Missing, Planned, Report, Route, Sync, TargetReport, Watch},
};
use crate::{Error, ErrorKind, Progress, Result, error::in_full};

/// What an earlier attempt left behind at a target may take half a minute to notice that it is over.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// A dataset, with what each target needs of it.
struct Job {
    path: String,
    /// Positions of jobs that have to be over before.
    after: Vec<usize>,
    /// Lower ones first.
    rank: usize,
    parts: Vec<Part>,
    state: State,
}

/// What one target needs of a dataset.
#[derive(Debug, Clone)]
struct Part {
    target: usize,
    into: String,
    mode: StreamMode,
    steps: VecDeque<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Over,
}

/// Carries all of it out; what cannot be is in the report.
pub(super) async fn run(sync: &Arc<Sync>, looked: Vec<(String, Result<Missing>)>, watch: Watch) -> Report {
    let mut report = Report::default();
    let mut jobs = Jobs::default();
    for (target, (name, missing)) in looked.into_iter().enumerate() {
        let mut of_target = TargetReport { target: name, ..TargetReport::default() };
        match missing {
            Ok(missing) => {
                let without = |planned: &&Planned| planned.plan.verdict == Verdict::NoSnapshot;
                of_target.without_snapshot = missing.plans.iter().filter(without).count() as u64;
                of_target.datasets = jobs.add(target, missing, &sync.task.first);
            }
            Err(error) => of_target.error = Some(in_full(&error)),
        }
        report.targets.push(of_target);
    }
    let mut running = JoinSet::new();
    loop {
        while running.len() < sync.task.parallel.max(1)
            && !sync.cancel.is_cancelled()
            && let Some(at) = jobs.start_next(&mut report)
        {
            let (sync, watch) = (Arc::clone(sync), Arc::clone(&watch));
            let (path, parts) = (jobs.0[at].path.clone(), std::mem::take(&mut jobs.0[at].parts));
            running.spawn(async move {
                let targets: Vec<_> = parts.iter().map(|part| part.target).collect();
                let carrying = carry_out(sync, path.clone(), parts, watch);
                let no_thread = |error| {
                    let error = Some(in_full(&Error::Thread(error)));
                    let report = DatasetReport { path, error, ..DatasetReport::default() };
                    targets.into_iter().map(|target| (target, report.clone())).collect()
                };
                (at, apart(carrying).await.unwrap_or_else(no_thread))
            });
        }
        match running.join_next().await {
            Some(Ok((at, done))) => {
                jobs.0[at].state = State::Over;
                for (target, dataset) in done {
                    report.targets[target].note(dataset);
                }
            }
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            None => break,
        }
    }
    jobs.skip_rest(&mut report);
    report
}

impl TargetReport {
    fn note(&mut self, done: DatasetReport) {
        match self.datasets.iter_mut().find(|dataset| dataset.path == done.path) {
            Some(known) => *known = done,
            None => self.datasets.push(done),
        }
    }

    fn has_failed(&self, path: &str) -> bool {
        self.datasets.iter().any(|dataset| dataset.path == path && dataset.error.is_some())
    }

    fn fail(&mut self, path: &str, why: String) {
        if let Some(dataset) = self.datasets.iter_mut().find(|dataset| dataset.path == path) {
            dataset.error.get_or_insert(why);
        }
    }
}

#[derive(Default)]
struct Jobs(Vec<Job>);

impl Jobs {
    /// Adds what one target lacks. Gives what can be said of each dataset now.
    fn add(&mut self, target: usize, missing: Missing, first: &[Pattern]) -> Vec<DatasetReport> {
        let mut known: HashMap<String, usize> =
            self.0.iter().enumerate().map(|(at, job)| (job.path.clone(), at)).collect();
        let mut positions = Vec::new();
        let mut reports = Vec::new();
        for Planned { plan, mode } in missing.plans {
            let at = *known.entry(plan.path.clone()).or_insert_with(|| {
                let rank = first.iter().position(|pattern| pattern.matches(&plan.path));
                let rank = rank.unwrap_or(first.len());
                self.0.push(Job {
                    path: plan.path.clone(),
                    after: Vec::new(),
                    rank,
                    parts: Vec::new(),
                    state: State::Waiting,
                });
                self.0.len() - 1
            });
            positions.push(at);
            let after: Vec<usize> = plan.after.iter().map(|before| positions[*before]).collect();
            self.0[at].after.extend(after);
            let error = match (plan.verdict, mode) {
                (Verdict::Steps(steps), Ok(mode)) => {
                    self.0[at].parts.push(Part { target, into: plan.into, mode, steps: steps.into() });
                    None
                }
                (Verdict::Steps(_), Err(error)) => Some(error.to_string()),
                (Verdict::Diverged { common, newer }, _) => Some(diverged(common.as_deref(), newer)),
                (Verdict::Blocked(why), _) => Some(why.to_string()),
                (Verdict::UpToDate | Verdict::NoSnapshot, _) => None,
            };
            reports.push(DatasetReport { path: plan.path, error, ..DatasetReport::default() });
        }
        // A workspace before a bulk dataset, and what it hangs on before that.
        for at in (0..self.0.len()).rev() {
            for before in self.0[at].after.clone() {
                self.0[before].rank = self.0[before].rank.min(self.0[at].rank);
            }
        }
        reports
    }

    /// The next that waits for nobody. Where what it hangs on has failed, there is no place for it.
    fn start_next(&mut self, report: &mut Report) -> Option<usize> {
        let ready = |job: &Job| {
            job.state == State::Waiting && job.after.iter().all(|before| self.0[*before].state == State::Over)
        };
        let at =
            (0..self.0.len()).filter(|at| ready(&self.0[*at])).min_by_key(|at| (self.0[*at].rank, *at))?;
        let before: Vec<String> =
            self.0[at].after.iter().map(|before| self.0[*before].path.clone()).collect();
        let Job { path, parts, state, .. } = &mut self.0[at];
        *state = State::Running;
        parts.retain(|part| {
            let target = &mut report.targets[part.target];
            let Some(missing) = before.iter().find(|path| target.has_failed(path)) else { return true };
            target.fail(path, format!("{missing:?} has to be there before it, and is not"));
            false
        });
        Some(at)
    }

    /// Says of what was not begun that it is not there.
    fn skip_rest(&self, report: &mut Report) {
        for job in self.0.iter().filter(|job| job.state == State::Waiting) {
            for part in &job.parts {
                report.targets[part.target]
                    .fail(&job.path, "it was not begun: the sync was stopped".to_owned());
            }
        }
    }
}

/// Brings a dataset up to date at all targets that lack something of it.
async fn carry_out(
    sync: Arc<Sync>,
    path: String,
    mut parts: Vec<Part>,
    watch: Watch,
) -> Vec<(usize, DatasetReport)> {
    let (sync, path, watch) = (&*sync, path.as_str(), &watch);
    let new = |part: &Part| Done { target: part.target, report: report_of(path), newest: None };
    let mut done: Vec<Done> = parts.iter().map(new).collect();
    let mut tries = 0;
    // Whoever lacks most begins; the others join where they are.
    while let Some(longest) = parts.iter().max_by_key(|part| part.steps.len())
        && let Some(step) = longest.steps.front().cloned()
    {
        let mode = longest.mode;
        let together = |part: &Part| part.steps.front() == Some(&step) && part.mode == mode;
        let group: Vec<usize> = (0..parts.len()).filter(|at| together(&parts[*at])).collect();
        let results = take_step(sync, path, (&step, mode), &parts, &group, watch).await;
        let mut busy = false;
        for (at, result) in group.into_iter().zip(results) {
            match result {
                Err(error) if error.kind() == ErrorKind::Busy && tries < BUSY_TRIES => busy = true,
                Err(error) => {
                    done[at].report.error = Some(in_full(&error));
                    parts[at].steps.clear();
                }
                Ok(bytes) => {
                    parts[at].steps.pop_front();
                    done[at].note(&step, bytes);
                }
            }
        }
        if busy {
            tries += 1;
            tokio::select! {
                () = tokio::time::sleep(BUSY_PAUSE) => {}
                () = sync.cancel.cancelled() => tries = BUSY_TRIES,
            }
        }
    }
    for done in &mut done {
        done.remember(sync, path).await;
    }
    done.into_iter().map(|done| (done.target, done.report)).collect()
}

/// What became of a dataset at one target.
struct Done {
    target: usize,
    report: DatasetReport,
    /// The last snapshot that arrived.
    newest: Option<String>,
}

impl Done {
    fn note(&mut self, step: &Step, bytes: u64) {
        if let Some(to) = step.brings() {
            self.report.snapshots += 1;
            self.report.bytes += bytes;
            self.newest = Some(to.name.clone());
        }
    }

    /// Keeps the common ground of the two ends, should the snapshot go at the source.
    async fn remember(&mut self, sync: &Sync, path: &str) {
        let (Some(newest), Route::Push { from, to }) = (&self.newest, &sync.route) else { return };
        if let Err(error) = from.bookmark(path, newest, &to[self.target].1.owner()).await {
            let why = format!("it has arrived, and cannot be bookmarked here: {}", in_full(&error));
            self.report.error.get_or_insert(why);
        }
    }
}

/// One step, at each target of the group.
async fn take_step(
    sync: &Sync,
    path: &str,
    (step, mode): (&Step, StreamMode),
    parts: &[Part],
    group: &[usize],
    watch: &Watch,
) -> Vec<Result<u64>> {
    if sync.cancel.is_cancelled() {
        return group.iter().map(|_| Err(Error::Cancelled)).collect();
    }
    if step.brings().is_none() {
        return join_all(group.iter().map(|at| prepare(sync, step, &parts[*at]))).await;
    }
    let targets: Vec<usize> = group.iter().map(|at| parts[*at].target).collect();
    for target in &targets {
        let snapshot = step.brings().map(|to| to.name.clone()).unwrap_or_default();
        watch(Event::Began { path: path.to_owned(), target: *target, snapshot });
    }
    let progress = |number: usize, progress: Progress| {
        watch(Event::Moved { path: path.to_owned(), target: targets[number], progress });
    };
    let pace = sync.task.pace.as_deref();
    let means = Means { pace, progress: &progress, cancel: &sync.cancel };
    let stream = Stream { path, step, mode };
    let results = match &sync.route {
        Route::Push { from, to } => {
            let to: Vec<_> =
                group.iter().map(|at| (&to[parts[*at].target].1, parts[*at].into.as_str())).collect();
            moving::push(from, stream, &to, means).await
        }
        Route::Pull { from, to, .. } => {
            vec![moving::pull(from, stream, (to, &parts[group[0]].into), means).await]
        }
    };
    for (target, result) in targets.iter().zip(&results) {
        let (path, target) = (path.to_owned(), *target);
        watch(match result {
            Ok(bytes) => Event::Arrived { path, target, bytes: *bytes },
            Err(error) => Event::Failed { path, target, why: in_full(error) },
        });
    }
    results
}

/// A step that moves nothing.
async fn prepare(sync: &Sync, step: &Step, part: &Part) -> Result<u64> {
    match (&sync.route, step) {
        (Route::Push { to, .. }, Step::MakePlace) => to[part.target].1.make_place(&part.into).await?,
        (Route::Push { to, .. }, _) => to[part.target].1.abandon(&part.into).await?,
        (Route::Pull { to, .. }, Step::MakePlace) => to.make_place(&part.into).await?,
        (Route::Pull { to, .. }, _) => to.abandon(&part.into).await?,
    }
    Ok(0)
}

fn report_of(path: &str) -> DatasetReport {
    DatasetReport { path: path.to_owned(), ..DatasetReport::default() }
}

fn diverged(common: Option<&str>, newer: usize) -> String {
    let since = common.map_or_else(
        || "has nothing in common with the source".to_owned(),
        |common| {
            format!("went another way after {common:?}, with {newer} snapshots that the source does not know")
        },
    );
    format!(
        "its copy {since}, and stays as it is: --on-divergence beside brings it beside that copy, or remove the copy"
    )
}
