//! Keeping a tree in step: listing, planning, carrying out, and letting go of what a grid does not keep.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ds_zfs::{
    Encryption, Features, Implementation, LocalTree, NoMode, StreamMode,
    replication::{
        self, Dataset, DatasetPlan, Encrypted, Expired, Grid, Pattern, Policy, Step, Tree, Verdict, expired,
    },
};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{FarTree, Pace, far::Listed, jobs, metrics};
use crate::{Error, Progress, Result};

/// Streams whose size is asked for before a round: each takes a process.
const MOST_ESTIMATED: usize = 200;

/// From where to where.
#[derive(Clone)]
pub enum Route {
    /// From here to others: what several of them lack is read once.
    Push {
        /// Ours.
        from: LocalTree,
        /// Theirs, with the names by which they are reported.
        to: Vec<(String, FarTree)>,
    },
    /// From another here.
    Pull {
        /// Theirs.
        from: FarTree,
        /// Ours.
        to: LocalTree,
        /// The name by which ours is reported.
        name: String,
    },
}

/// What is to be done, and how.
#[derive(Debug, Clone)]
pub struct Task {
    /// What is replicated.
    pub policy: Policy,
    /// Datasets like the first of these come before those like the second, and so on; then all others.
    pub first: Vec<Pattern>,
    /// Datasets at once, at least 1.
    pub parallel: usize,
    /// What all streams together may take of the line.
    pub pace: Option<Arc<Pace>>,
    /// What the targets keep.
    pub keep: Option<Grid>,
    /// What the source keeps, which is ours in a push.
    pub keep_source: Option<Grid>,
}

/// Runs one task, as often as it is asked to.
pub struct Sync {
    pub(super) route: Route,
    pub(super) task: Task,
    pub(super) cancel: CancellationToken,
}

/// What is missing at one target, by one look at both ends.
#[derive(Debug)]
pub struct Missing {
    /// The target's name.
    pub target: String,
    /// What to do, dataset by dataset, in an order in which it can be done.
    pub plans: Vec<Planned>,
}

/// What one dataset needs.
#[derive(Debug)]
pub struct Planned {
    /// What to do.
    pub plan: DatasetPlan,
    /// How its streams travel; or why they cannot.
    pub mode: std::result::Result<StreamMode, NoMode>,
}

/// What happens while a task is carried out.
#[derive(Debug, Clone)]
pub enum Event {
    /// A stream begins.
    Began {
        /// The dataset's path.
        path: String,
        /// The target's position.
        target: usize,
        /// The snapshot that it brings.
        snapshot: String,
    },
    /// Bytes of it are written at the target.
    Moved {
        /// The dataset's path.
        path: String,
        /// The target's position.
        target: usize,
        /// How far it is.
        progress: Progress,
    },
    /// It has arrived.
    Arrived {
        /// The dataset's path.
        path: String,
        /// The target's position.
        target: usize,
        /// The bytes of its stream.
        bytes: u64,
    },
    /// It has not. Where the target was busy, it is tried again.
    Failed {
        /// The dataset's path.
        path: String,
        /// The target's position.
        target: usize,
        /// Why.
        why: String,
    },
}

/// Is told of events, from several threads.
pub type Watch = Arc<dyn Fn(Event) + Send + std::marker::Sync>;

/// What became of a task.
#[derive(Debug, Default)]
pub struct Report {
    /// Each target's, in the order of the route.
    pub targets: Vec<TargetReport>,
    /// Snapshots that the grids let go, at all ends.
    pub destroyed: u64,
}

/// What became of one target.
#[derive(Debug, Default)]
pub struct TargetReport {
    /// Its name.
    pub target: String,
    /// Dataset by dataset.
    pub datasets: Vec<DatasetReport>,
    /// Those of them that are meant and have no snapshot at the source that is: nothing of them is kept in step.
    pub without_snapshot: u64,
    /// Why it could not even be looked at, or not be cleared up.
    pub error: Option<String>,
}

/// What became of one dataset at one target.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DatasetReport {
    /// Its path at the source.
    pub path: String,
    /// Snapshots that arrived.
    pub snapshots: u64,
    /// Bytes of their streams.
    pub bytes: u64,
    /// Why not all of it is there.
    pub error: Option<String>,
}

impl Sync {
    /// Of a task, ended early when `cancel` is cancelled.
    pub fn new(route: Route, task: Task, cancel: CancellationToken) -> Self {
        metrics::describe();
        Self { route, task, cancel }
    }

    /// Looks at both ends. A target that cannot be asked has an error instead; if the source cannot, that is the error.
    pub async fn look(&self) -> Result<Vec<(String, Result<Missing>)>> {
        match &self.route {
            Route::Push { from, to } => {
                let (source, targets) = futures_util::join!(from.list(), list_each(to));
                let source = some(source?, from.root())?;
                let missing = |(name, target): (String, Result<Listed>)| {
                    let missing = target.map(|Listed { tree, zfs }| {
                        self.missing(&name, (&source, from.features()), (&tree, &zfs))
                    });
                    (name, missing)
                };
                Ok(targets.into_iter().map(missing).collect())
            }
            Route::Pull { from, to, name } => {
                let (source, target) = futures_util::join!(from.list(), to.list());
                let source = source?;
                let source = Listed { tree: some(source.tree, "it")?, ..source };
                let missing = target
                    .map(|target| self.missing(name, (&source.tree, &source.zfs), (&target, to.features())));
                Ok(vec![(name.clone(), missing.map_err(Into::into))])
            }
        }
    }

    /// Carries out what a look said. Whatever fails is in the report, and the rest goes on.
    pub async fn carry_out(self: &Arc<Self>, looked: Vec<(String, Result<Missing>)>, watch: Watch) -> Report {
        let watch: Watch = Arc::new(move |event| {
            metrics::note(&event);
            watch(event);
        });
        let mut report = jobs::run(self, looked, watch).await;
        if !self.cancel.is_cancelled() {
            self.let_go(&mut report).await;
        }
        metrics::note_round(&report);
        report
    }

    /// The bytes of all missing streams, where ZFS can tell of each before it is sent: in a push, and not of very many.
    pub async fn estimate(&self, looked: &[(String, Result<Missing>)]) -> Option<u64> {
        let Route::Push { from, .. } = &self.route else { return None };
        let mut known: HashMap<(&str, &Step), u64> = HashMap::new();
        let mut total: u64 = 0;
        for planned in looked.iter().filter_map(|(_, missing)| missing.as_ref().ok()).flat_map(|m| &m.plans) {
            let (Verdict::Steps(steps), Ok(mode)) = (&planned.plan.verdict, planned.mode.as_ref()) else {
                continue;
            };
            for step in steps.iter().filter(|step| step.brings().is_some()) {
                let key = (planned.plan.path.as_str(), step);
                let bytes = match known.get(&key) {
                    Some(bytes) => *bytes,
                    None if known.len() >= MOST_ESTIMATED => return None,
                    None => from.estimate(key.0, step, *mode).await.ok()??,
                };
                known.insert(key, bytes);
                total += bytes;
            }
        }
        Some(total)
    }

    fn missing(
        &self,
        target: &str,
        (source, source_zfs): (&Tree, &Features),
        (there, there_zfs): (&Tree, &Features),
    ) -> Missing {
        let plans = replication::plan(source, there, &self.task.policy);
        let planned = |mut plan: DatasetPlan| {
            if there_zfs.implementation == Implementation::ZfsFuse {
                copy_whole(&mut plan);
            }
            let mode = self.mode(&plan, (source, source_zfs), (there, there_zfs));
            Planned { plan, mode }
        };
        Missing { target: target.to_owned(), plans: plans.into_iter().map(planned).collect() }
    }

    /// How a dataset's streams travel: as its copy goes on, else with all that both ends know.
    fn mode(
        &self,
        plan: &DatasetPlan,
        (source, source_zfs): (&Tree, &Features),
        (there, there_zfs): (&Tree, &Features),
    ) -> std::result::Result<StreamMode, NoMode> {
        let encrypted = source.dataset(&plan.path).is_some_and(|dataset| dataset.encrypted);
        let encryption = if encrypted { Encryption::On } else { Encryption::Off };
        let negotiate = |chain| StreamMode::negotiate(encryption, chain, source_zfs, &there_zfs.streams());
        match goes_on(plan, there) {
            Some(copy) => {
                // What came by other means says nothing of itself: without flags `zfs send` sends so.
                let unknown = if plan.raw { StreamMode::Raw } else { StreamMode::PLAIN };
                negotiate(Some(copy.mode.unwrap_or(unknown)))
            }
            None if plan.raw => negotiate(Some(StreamMode::Raw)),
            None if encrypted && self.task.policy.encrypted == Encrypted::Plain => {
                let flags = StreamMode::negotiate(Encryption::Off, None, source_zfs, &there_zfs.streams())?;
                negotiate(Some(flags))
            }
            None => negotiate(None),
        }
    }

    /// Destroys what the grids do not keep, after another look: only what is older than the newest common snapshot.
    async fn let_go(&self, report: &mut Report) {
        if self.task.keep.is_none() && self.task.keep_source.is_none() {
            return;
        }
        let failures = match &self.route {
            Route::Push { from, to } => self.let_go_after_push(from, to, report).await,
            Route::Pull { from, to, .. } => vec![self.let_go_after_pull(from, to, report).await],
        };
        for (target, failure) in report.targets.iter_mut().zip(failures) {
            if let Err(error) = failure {
                let why = crate::error::in_full(&error);
                target.error.get_or_insert(format!("old snapshots stay: {why}"));
            }
        }
    }

    async fn let_go_after_push(
        &self,
        from: &LocalTree,
        to: &[(String, FarTree)],
        report: &mut Report,
    ) -> Vec<Result<()>> {
        let Policy { datasets, snapshots, .. } = &self.task.policy;
        let source = match from.list().await {
            Ok(source) => source,
            Err(error) => return vec![Err(error.into())],
        };
        let mut results = Vec::new();
        // What may go at the source has to be gone for every target.
        let mut common: Option<Vec<Expired>> = None;
        for ((_, far), (_, target)) in to.iter().zip(list_each(to).await) {
            let cleared = async {
                let listed = target?.tree;
                if let Some(grid) = &self.task.keep {
                    for some in expired(&listed, &source, grid, datasets, snapshots) {
                        report.destroyed += far.destroy_snapshots(&some).await?;
                    }
                }
                Ok(listed)
            };
            match cleared.await {
                Ok(listed) => {
                    if let Some(grid) = &self.task.keep_source {
                        let some = expired(&source, &listed, grid, datasets, snapshots);
                        common = Some(common.map_or(some.clone(), |common| both(common, &some)));
                    }
                    results.push(Ok(()));
                }
                Err(error) => {
                    common = Some(Vec::new());
                    results.push(Err(error));
                }
            }
        }
        for some in common.unwrap_or_default() {
            match from.destroy_snapshots(&some).await {
                Ok(count) => report.destroyed += count,
                Err(error) => {
                    results[0] = Err(error.into());
                    break;
                }
            }
        }
        results
    }

    async fn let_go_after_pull(&self, from: &FarTree, to: &LocalTree, report: &mut Report) -> Result<()> {
        let Policy { datasets, snapshots, .. } = &self.task.policy;
        let Some(grid) = &self.task.keep else { return Ok(()) };
        let (source, target) = futures_util::join!(from.list(), to.list());
        for some in expired(&target?, &source?.tree, grid, datasets, snapshots) {
            report.destroyed += to.destroy_snapshots(&some).await?;
        }
        Ok(())
    }
}

/// Refuses a source that is not there: nothing to do would be no answer to a name that was mistyped.
fn some(source: Tree, name: &str) -> Result<Tree> {
    if source.datasets().is_empty() { Err(Error::NoTree(name.to_owned())) } else { Ok(source) }
}

async fn list_each(to: &[(String, FarTree)]) -> Vec<(String, Result<Listed>)> {
    join_all(to.iter().map(async |(name, far)| (name.clone(), far.list().await))).await
}

/// zfs-fuse cannot be told to receive what is no clone's stream as a clone: there a copy beside another is a whole one.
fn copy_whole(plan: &mut DatasetPlan) {
    let Verdict::Steps(steps) = &mut plan.verdict else { return };
    for step in steps {
        if let Step::Clone { from, to } = step
            && from.path == plan.path
        {
            *step = Step::Full { to: to.clone() };
        }
    }
}

/// The copy at the target whose history the streams go on with.
fn goes_on<'a>(plan: &DatasetPlan, there: &'a Tree) -> Option<&'a Dataset> {
    let Verdict::Steps(steps) = &plan.verdict else { return None };
    match steps.iter().find(|step| step.brings().is_some())? {
        Step::Incremental { .. } | Step::Resume { .. } => there.dataset(&plan.into),
        Step::Clone { from, .. } => there
            .datasets()
            .iter()
            .find(|dataset| dataset.snapshots.iter().any(|snapshot| snapshot.guid == from.guid)),
        _ => None,
    }
}

/// What both let go.
fn both(one: Vec<Expired>, other: &[Expired]) -> Vec<Expired> {
    let other: HashSet<(&str, &str)> = other
        .iter()
        .flat_map(|some| some.snapshots.iter().map(|name| (some.path.as_str(), name.as_str())))
        .collect();
    one.into_iter()
        .map(|Expired { path, mut snapshots }| {
            snapshots.retain(|name| other.contains(&(path.as_str(), name.as_str())));
            Expired { path, snapshots }
        })
        .filter(|some| !some.snapshots.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_goes_at_the_source_only_if_every_target_lets_it() {
        let some = |path: &str, names: &[&str]| Expired {
            path: path.into(),
            snapshots: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let one = vec![some("a", &["1", "2", "3"]), some("b", &["1"])];
        assert_eq!(both(one, &[some("a", &["2", "3", "4"]), some("c", &["1"])]), [some("a", &["2", "3"])]);
    }
}
