//! From two listings to the streams that are to be sent.

mod landing;
mod order;

use std::collections::{HashMap, HashSet};

use self::{landing::Landing, order::Order};
use super::{
    pattern::Selection,
    tree::{Dataset, Snapshot, Tree, parent},
};
use crate::SnapshotGuid;

/// What is replicated, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which datasets, by path.
    pub datasets: Selection,
    /// Which of their snapshots, by name.
    pub snapshots: Selection,
    /// Whether those between the common one and the newest come too.
    pub history: History,
    /// What becomes of a target that went another way.
    pub divergence: Divergence,
    /// How encrypted datasets are sent.
    pub encrypted: Encrypted,
}

/// Which snapshots come that are newer than what the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All of them, each in a stream of its own.
    Whole,
    /// The newest, and those that clones of the tree hang on.
    Newest,
}

/// What becomes of a target whose newest snapshot the source does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divergence {
    /// It is reported, and stays as it is.
    Report,
    /// It stays as it is, and what the source has comes beside it, as `<name>.diverged-<n>`: a clone of the target's newest
    /// common snapshot, or a whole copy where nothing is common.
    Beside,
}

/// How encrypted datasets are sent. A chain stays what it was begun as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encrypted {
    /// As they lie on the pool: the target can keep them and not read them.
    Raw,
    /// Decrypted.
    Plain,
}

/// What one dataset of the source needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPlan {
    /// Its path at the source.
    pub path: String,
    /// The path at the target that its snapshots go to.
    pub into: String,
    /// Positions, all before this one's, of the plans that have to be carried out first: they make its parent or its origin.
    pub after: Vec<usize>,
    /// Whether its streams are raw.
    pub raw: bool,
    /// What to do.
    pub verdict: Verdict,
}

/// What to do about a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The target has all there is.
    UpToDate,
    /// The source has no snapshot that is meant.
    NoSnapshot,
    /// One after the other.
    Steps(Vec<Step>),
    /// The target went another way; nothing is done to it.
    Diverged {
        /// The newest snapshot that both have, by its name at the target.
        common: Option<String>,
        /// How many newer ones the target has.
        newer: usize,
    },
    /// A stream would be refused, or would harm.
    Blocked(Blocked),
}

/// Why a dataset cannot be brought up to date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The name is taken by something else.
    #[error(
        "the target has another snapshot named {name:?}: rename it there, or leave this name out at the source"
    )]
    NameTaken {
        /// Which.
        name: String,
    },
    /// The target holds encrypted blocks, and decrypted ones are asked for.
    #[error("its copy was begun with raw streams and can only go on so: send raw, or begin another copy")]
    BegunRaw,
    /// A disk.
    #[error("it is a disk and holds no files, and only filesystems are sent: leave it out with --exclude")]
    Disk,
    /// The other way round.
    #[error(
        "its copy was begun with decrypted streams and can only go on so: send plain, or begin another copy"
    )]
    BegunPlain,
}

/// One thing to do at the target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Make an empty filesystem that is not mounted: those below it need a place.
    MakePlace,
    /// Give up what is half received: its token leads nowhere any more.
    Abandon,
    /// Go on with the stream that broke.
    Resume {
        /// What `zfs send -t` takes.
        token: String,
        /// What it brings.
        to: Point,
    },
    /// A full stream, which makes a new filesystem.
    Full {
        /// What it brings.
        to: Point,
    },
    /// A stream onto the filesystem whose newest snapshot is the base.
    Incremental {
        /// What it starts from.
        from: Base,
        /// What it brings.
        to: Point,
    },
    /// A stream that makes a new filesystem, a clone of the target's own copy of the base.
    Clone {
        /// What it starts from.
        from: Base,
        /// What it brings.
        to: Point,
    },
}

/// A snapshot that a stream brings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// The GUID that it must have when it has arrived.
    pub guid: SnapshotGuid,
}

/// What a stream starts from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Base {
    /// The path at the source of the dataset that it lies on.
    pub path: String,
    /// What it is there.
    pub mark: Mark,
    /// Its name.
    pub name: String,
    /// Its GUID, equal on both sides.
    pub guid: SnapshotGuid,
}

/// What a stream starts from, at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A snapshot.
    Snapshot,
    /// What is left of one.
    Bookmark,
}

/// Says what brings `target` up to date with `source`, in an order in which it can be done; datasets that do not wait for each
/// other can be done at once. Carried out and planned again, nothing is left to do.
pub fn plan(source: &Tree, target: &Tree, policy: &Policy) -> Vec<DatasetPlan> {
    let mut planning = Planning::new(source, target, policy);
    let Order { positions, cut } = order::order(source);
    let mut plans = Vec::new();
    for at in positions {
        let origin = if cut.contains(&at) { None } else { source.origin_of(&source.datasets()[at]) };
        if let Some(plan) = planning.dataset(at, origin) {
            planning.note(&plan, plans.len());
            plans.push(plan);
        }
    }
    plans
}

struct Planning<'a> {
    source: &'a Tree,
    target: &'a Tree,
    policy: &'a Policy,
    /// By position at the source: the snapshots that are meant, oldest first.
    wanted: Vec<Vec<&'a Snapshot>>,
    /// Paths below which something is meant.
    places: HashSet<&'a str>,
    /// Snapshots that clones of the source come from.
    origins: HashSet<SnapshotGuid>,
    /// Of those, the ones that the target has, or will have: then with the plan that brings them.
    at_target: HashMap<SnapshotGuid, Option<usize>>,
    /// Datasets that the target will have, with the plan that makes them.
    made: HashMap<String, usize>,
}

impl<'a> Planning<'a> {
    fn new(source: &'a Tree, target: &'a Tree, policy: &'a Policy) -> Self {
        let wanted: Vec<Vec<_>> = source.datasets().iter().map(|dataset| wanted(dataset, policy)).collect();
        let mut places = HashSet::new();
        for (dataset, _) in source.datasets().iter().zip(&wanted).filter(|(_, wanted)| !wanted.is_empty()) {
            let mut path = dataset.path.as_str();
            while let Some(above) = parent(path)
                && places.insert(above)
            {
                path = above;
            }
        }
        let origins: HashSet<_> = source.origins().into_keys().collect();
        let there = target.datasets().iter().flat_map(|dataset| &dataset.snapshots);
        let at_target = there.filter(|s| origins.contains(&s.guid)).map(|s| (s.guid, None)).collect();
        Self { source, target, policy, wanted, places, origins, at_target, made: HashMap::new() }
    }

    fn dataset(&self, at: usize, origin: Option<&Snapshot>) -> Option<DatasetPlan> {
        let source = &self.source.datasets()[at];
        let wanted = &self.wanted[at];
        let mut plan = DatasetPlan {
            path: source.path.clone(),
            into: source.path.clone(),
            after: Vec::new(),
            raw: false,
            verdict: Verdict::NoSnapshot,
        };
        plan.after.extend(parent(&source.path).and_then(|parent| self.made.get(parent)).copied());
        if wanted.is_empty() {
            let steps = self.place(&source.path);
            if !steps.is_empty() {
                plan.verdict = Verdict::Steps(steps);
            } else if !self.policy.datasets.has(&source.path) {
                return None;
            }
            return Some(plan);
        }
        if source.disk {
            plan.verdict = Verdict::Blocked(Blocked::Disk);
            return Some(plan);
        }
        let landing = landing::find(source, self.target, self.policy.divergence);
        plan.into.clone_from(&landing.path);
        match self.steps(source, wanted, &landing, origin) {
            Ok(steps) => {
                let clones = steps.iter().find_map(|step| match step {
                    Step::Clone { from, .. } => self.at_target.get(&from.guid).copied().flatten(),
                    _ => None,
                });
                plan.after.extend(clones.filter(|origin| !plan.after.contains(origin)));
                plan.raw = self.is_raw(source);
                if let (true, Some(copy)) = (steps.is_empty(), landing.copy) {
                    // Also where it went another way: it has all there is, and nothing is begun beside it.
                    plan.into.clone_from(&copy.path);
                }
                plan.verdict = if steps.is_empty() { Verdict::UpToDate } else { Verdict::Steps(steps) };
            }
            Err(verdict) => plan.verdict = verdict,
        }
        Some(plan)
    }

    /// What makes a place for the datasets below one that brings nothing itself.
    fn place(&self, path: &str) -> Vec<Step> {
        match self.target.dataset(path) {
            _ if !self.places.contains(path) => Vec::new(),
            None => vec![Step::MakePlace],
            Some(there) if there.tip().is_none() && there.half_received.is_some() => {
                vec![Step::Abandon, Step::MakePlace]
            }
            Some(_) => Vec::new(),
        }
    }

    /// What brings all of `wanted` that is newer than what is common.
    fn steps(
        &self,
        source: &Dataset,
        wanted: &[&Snapshot],
        landing: &Landing,
        origin: Option<&Snapshot>,
    ) -> Result<Vec<Step>, Verdict> {
        let mut steps = Vec::new();
        let (mut base, mut makes_clone) = match &landing.state {
            landing::State::Absent => (self.origin_base(source, origin), true),
            landing::State::Fork(base) => (base.clone(), true),
            landing::State::Tip(base) => (Some(base.clone()), false),
            landing::State::Diverged { common, newer } => {
                return Err(Verdict::Diverged { common: common.clone(), newer: *newer });
            }
        };
        let mut since = base.as_ref().filter(|base| base.path == source.path).map(|base| txg(source, base));
        if let Some(half) = landing.half_received {
            // What its stream brings has to be meant still, and to be newer than what is here.
            let to = wanted.iter().find(|wanted| half.guid == Some(wanted.guid));
            match to.filter(|to| since.is_none_or(|since| to.created_txg > since)) {
                Some(to) => {
                    steps.push(Step::Resume { token: half.token.clone(), to: point(to) });
                    since = Some(to.created_txg);
                    base = Some(snapshot_base(source, to));
                    makes_clone = false;
                }
                None => steps.push(Step::Abandon),
            }
        }
        let newer = wanted.iter().filter(|wanted| since.is_none_or(|since| wanted.created_txg > since));
        for to in self.thinned(newer.copied().collect()) {
            let to_point = point(to);
            steps.push(match base.take() {
                None => Step::Full { to: to_point },
                Some(from) if makes_clone => Step::Clone { from, to: to_point },
                Some(from) => Step::Incremental { from, to: to_point },
            });
            makes_clone = false;
            base = Some(snapshot_base(source, to));
        }
        self.check(source, landing, &steps).map_err(Verdict::Blocked)?;
        Ok(steps)
    }

    /// Where a clone's stream starts, if the target has that or will.
    fn origin_base(&self, clone: &Dataset, origin: Option<&Snapshot>) -> Option<Base> {
        let (origin, place) = (origin?, clone.origin.as_ref()?);
        self.at_target.contains_key(&origin.guid).then(|| Base {
            path: place.path.clone(),
            mark: Mark::Snapshot,
            name: origin.name.clone(),
            guid: origin.guid,
        })
    }

    fn thinned(&self, newer: Vec<&'a Snapshot>) -> Vec<&'a Snapshot> {
        let newest = newer.last().map(|newest| newest.guid);
        match self.policy.history {
            History::Whole => newer,
            History::Newest => newer
                .into_iter()
                .filter(|s| Some(s.guid) == newest || self.origins.contains(&s.guid))
                .collect(),
        }
    }

    /// Whether the target would take the streams, and no chain changes what it is.
    fn check(&self, source: &Dataset, landing: &Landing, steps: &[Step]) -> Result<(), Blocked> {
        let Some(copy) = landing.copy else { return Ok(()) };
        if steps.is_empty() {
            return Ok(());
        }
        let taken: HashSet<&str> = match &landing.state {
            landing::State::Tip(_) => copy.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect(),
            _ => HashSet::new(),
        };
        if let Some(to) = steps.iter().filter_map(Step::brings).find(|to| taken.contains(to.name.as_str())) {
            return Err(Blocked::NameTaken { name: to.name.clone() });
        }
        match (landing.begun_raw(source), self.policy.encrypted) {
            (Some(true), Encrypted::Plain) => Err(Blocked::BegunRaw),
            (Some(false), Encrypted::Raw) => Err(Blocked::BegunPlain),
            _ => Ok(()),
        }
    }

    fn is_raw(&self, source: &Dataset) -> bool {
        source.encrypted && self.policy.encrypted == Encrypted::Raw
    }

    /// Keeps what later datasets wait for.
    fn note(&mut self, plan: &DatasetPlan, position: usize) {
        let Verdict::Steps(steps) = &plan.verdict else { return };
        // What has no snapshot yet is the beginning of a first stream, which may have to go.
        if self.target.dataset(&plan.into).and_then(Dataset::tip).is_none() {
            self.made.insert(plan.into.clone(), position);
        }
        for to in steps.iter().filter_map(Step::brings) {
            if self.origins.contains(&to.guid) {
                self.at_target.entry(to.guid).or_insert(Some(position));
            }
        }
    }
}

impl Step {
    /// The snapshot that it brings.
    pub fn brings(&self) -> Option<&Point> {
        match self {
            Self::MakePlace | Self::Abandon => None,
            Self::Resume { to, .. }
            | Self::Full { to }
            | Self::Incremental { to, .. }
            | Self::Clone { to, .. } => Some(to),
        }
    }
}

fn wanted<'a>(dataset: &'a Dataset, policy: &Policy) -> Vec<&'a Snapshot> {
    if !policy.datasets.has(&dataset.path) {
        return Vec::new();
    }
    dataset.snapshots.iter().filter(|snapshot| policy.snapshots.has(&snapshot.name)).collect()
}

fn point(snapshot: &Snapshot) -> Point {
    Point { name: snapshot.name.clone(), guid: snapshot.guid }
}

fn snapshot_base(dataset: &Dataset, snapshot: &Snapshot) -> Base {
    Base {
        path: dataset.path.clone(),
        mark: Mark::Snapshot,
        name: snapshot.name.clone(),
        guid: snapshot.guid,
    }
}

/// How old a base is that lies on `source`.
fn txg(source: &Dataset, base: &Base) -> u64 {
    let snapshot = source.snapshots.iter().find(|snapshot| snapshot.guid == base.guid);
    let bookmark = source.bookmarks.iter().find(|bookmark| bookmark.guid == base.guid);
    snapshot.map(|s| s.created_txg).or(bookmark.map(|b| b.created_txg)).unwrap_or(0)
}
