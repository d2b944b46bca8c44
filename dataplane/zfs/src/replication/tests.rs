//! Plans, carried out on a model of the target that refuses what ZFS would.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::SnapshotGuid;

fn snapshot(name: &str, guid: u64, txg: u64) -> Snapshot {
    Snapshot {
        name: name.into(),
        guid: SnapshotGuid(guid),
        created_txg: txg,
        created_s: 0,
        ivset: None,
        held: false,
        cloned: false,
    }
}

/// A dataset with snapshots named `s<guid>`.
fn dataset(path: &str, guids: &[u64]) -> Dataset {
    let snapshots = guids.iter().map(|&guid| snapshot(&format!("s{guid}"), guid, guid)).collect();
    Dataset { path: path.into(), snapshots, ..Dataset::default() }
}

fn policy() -> Policy {
    Policy {
        datasets: Selection::default(),
        snapshots: Selection::default(),
        history: History::Whole,
        divergence: Divergence::Report,
        encrypted: Encrypted::Plain,
    }
}

/// Each step in a few characters, each dataset behind its path.
fn shown(plans: &[DatasetPlan]) -> Vec<String> {
    let step = |step: &Step| match step {
        Step::MakePlace => "place".to_owned(),
        Step::Abandon => "abandon".to_owned(),
        Step::Resume { to, .. } => format!("resume {}", to.name),
        Step::Full { to } => to.name.clone(),
        Step::Incremental { from, to } => {
            let mark = if from.mark == Mark::Snapshot { '@' } else { '#' };
            format!("{mark}{}>{}", from.name, to.name)
        }
        Step::Clone { from, to } => format!("{}@{}>>{}", from.path, from.name, to.name),
    };
    let verdict = |plan: &DatasetPlan| match &plan.verdict {
        Verdict::UpToDate => "up to date".to_owned(),
        Verdict::NoSnapshot => "no snapshot".to_owned(),
        Verdict::Steps(steps) => steps.iter().map(step).collect::<Vec<_>>().join(" "),
        Verdict::Diverged { common, newer } => format!("diverged from {common:?} by {newer}"),
        Verdict::Blocked(why) => format!("blocked: {why}"),
    };
    plans.iter().map(|plan| format!("{}: {}", plan.into, verdict(plan))).collect()
}

fn planned(source: Vec<Dataset>, target: Vec<Dataset>, policy: &Policy) -> Vec<String> {
    shown(&plan(&Tree::new(source), &Tree::new(target), policy))
}

#[test]
fn the_newest_common_snapshot_is_the_base_then_a_bookmark() {
    let source = || vec![dataset("a", &[1, 2, 3, 4])];
    let newest = Policy { history: History::Newest, ..policy() };
    assert_eq!(planned(source(), vec![], &policy()), ["a: s1 @s1>s2 @s2>s3 @s3>s4"]);
    assert_eq!(planned(source(), vec![], &newest), ["a: s4"]);
    assert_eq!(planned(source(), vec![dataset("a", &[1, 2])], &policy()), ["a: @s2>s3 @s3>s4"]);
    assert_eq!(planned(source(), vec![dataset("a", &[2])], &newest), ["a: @s2>s4"]);
    assert_eq!(planned(source(), vec![dataset("a", &[4])], &policy()), ["a: up to date"]);
    let bookmark = Bookmark { name: "b2".into(), guid: SnapshotGuid(2), created_txg: 2, ivset: None };
    let pruned = Dataset { bookmarks: vec![bookmark], ..dataset("a", &[3, 4]) };
    assert_eq!(planned(vec![pruned], vec![dataset("a", &[1, 2])], &policy()), ["a: #b2>s3 @s3>s4"]);
}

#[test]
fn a_target_that_went_another_way_is_reported_or_left_beside() {
    let source = || vec![dataset("a", &[1, 2, 3])];
    let beside = Policy { divergence: Divergence::Beside, ..policy() };
    let theirs = || dataset("a", &[1, 2, 90, 91]);
    assert_eq!(planned(source(), vec![theirs()], &policy()), ["a: diverged from Some(\"s2\") by 2"]);
    assert_eq!(planned(source(), vec![theirs()], &beside), ["a.diverged-1: a@s2>>s3"]);
    let begun = || dataset("a.diverged-1", &[3]);
    assert_eq!(planned(source(), vec![theirs(), begun()], &beside), ["a.diverged-1: up to date"]);
    let both = vec![theirs(), dataset("a.diverged-1", &[92])];
    assert_eq!(planned(source(), both, &beside), ["a.diverged-2: a@s2>>s3"]);
    assert_eq!(planned(source(), vec![dataset("a", &[90])], &beside), ["a.diverged-1: s1 @s1>s2 @s2>s3"]);
    let ahead = || vec![dataset("a", &[3, 90])];
    assert_eq!(planned(source(), ahead(), &beside), ["a: up to date"], "it has all there is");
    assert_eq!(planned(source(), ahead(), &policy()), ["a: diverged from Some(\"s3\") by 1"]);
    assert_eq!(planned(source(), vec![dataset("a", &[])], &policy()), ["a: diverged from None by 0"]);
}

#[test]
fn what_broke_goes_on_first_if_it_still_leads_somewhere() {
    let half = |guid| {
        let token = HalfReceived { token: "1-x".into(), guid };
        vec![Dataset { half_received: Some(token), ..dataset("a", &[1]) }]
    };
    let source = || vec![dataset("a", &[1, 2, 3])];
    let to = |guid| planned(source(), half(Some(SnapshotGuid(guid))), &policy());
    assert_eq!(to(2), ["a: resume s2 @s2>s3"]);
    assert_eq!(to(3), ["a: resume s3"]);
    for gone in [Some(SnapshotGuid(9)), Some(SnapshotGuid(1)), None] {
        assert_eq!(planned(source(), half(gone), &policy()), ["a: abandon @s1>s2 @s2>s3"]);
    }
    let first = |guid| Dataset { snapshots: Vec::new(), ..half(Some(SnapshotGuid(guid))).remove(0) };
    assert_eq!(planned(source(), vec![first(1)], &policy()), ["a: resume s1 @s1>s2 @s2>s3"]);
    assert_eq!(planned(source(), vec![first(9)], &policy()), ["a: abandon s1 @s1>s2 @s2>s3"]);
}

#[test]
fn parents_come_before_children_and_clones_after_their_origins() {
    let origin = |path: &str, n: u64| Some(Origin { path: path.into(), snapshot: format!("s{n}") });
    let tree = || {
        vec![
            dataset("", &[]),
            Dataset { origin: origin("z/y", 2), ..dataset("a", &[5]) },
            dataset("z", &[]),
            dataset("z/y", &[1, 2, 3]),
        ]
    };
    let everything = plan(&Tree::new(tree()), &Tree::default(), &policy());
    assert_eq!(shown(&everything), [": place", "z: place", "z/y: s1 @s1>s2 @s2>s3", "a: z/y@s2>>s5"]);
    assert_eq!(
        everything.iter().map(|plan| plan.after.clone()).collect::<Vec<_>>(),
        [vec![], vec![0], vec![1], vec![0, 2]]
    );

    let newest = Policy { history: History::Newest, ..policy() };
    assert_eq!(planned(tree(), vec![], &newest)[2..], ["z/y: s2 @s2>s3", "a: z/y@s2>>s5"]);
    let without = Selection { exclude: vec!["z/**".parse().unwrap()], ..Selection::default() };
    let without = Policy { datasets: without, ..policy() };
    assert_eq!(planned(tree(), vec![], &without), [": place", "a: s5"]);
    // Renamed to lie above its own origin: as a clone it could never be made.
    let ring = vec![Dataset { origin: origin("a/b", 1), ..dataset("a", &[2]) }, dataset("a/b", &[1])];
    assert_eq!(planned(ring, vec![], &policy()), ["a: s2", "a/b: s1"]);
}

#[test]
fn a_chain_stays_raw_or_plain() {
    let encrypted = |ivset: Option<u64>, guids: &[u64]| {
        let mut dataset = Dataset { encrypted: true, ..dataset("a", guids) };
        dataset.snapshots.iter_mut().for_each(|snapshot| snapshot.ivset = ivset);
        vec![dataset]
    };
    let raw = Policy { encrypted: Encrypted::Raw, ..policy() };
    let source = || encrypted(Some(7), &[1, 2]);
    let fresh = plan(&Tree::new(source()), &Tree::default(), &raw);
    assert!(fresh[0].raw && !plan(&Tree::new(source()), &Tree::default(), &policy())[0].raw);
    let (kept, opened) = (encrypted(Some(7), &[1]), encrypted(None, &[1]));
    assert_eq!(planned(source(), kept.clone(), &raw), ["a: @s1>s2"]);
    assert_eq!(planned(source(), opened.clone(), &policy()), ["a: @s1>s2"]);
    assert!(planned(source(), kept, &policy())[0].contains("begun with raw streams"));
    assert!(planned(source(), opened, &raw)[0].contains("begun with decrypted streams"));
    assert!(
        !plan(&Tree::new(vec![dataset("a", &[1])]), &Tree::default(), &raw)[0].raw,
        "it is not encrypted"
    );
}

#[test]
fn a_name_that_is_taken_is_said_before_anything_is_sent() {
    let mut theirs = dataset("a", &[1, 2]);
    theirs.snapshots[0].name = "s3".into();
    let said = planned(vec![dataset("a", &[2, 3])], vec![theirs], &policy());
    assert!(said[0].starts_with("a: blocked: the target has another snapshot named \"s3\""), "{said:?}");
}

#[test]
fn a_hundred_thousand_snapshots_are_listed_and_planned() {
    let read = |step: u64| {
        let mut listing = Listing::new("tank/d", |_| None);
        for n in (0..100_000_u64).step_by(usize::try_from(step).unwrap()) {
            let name = format!("tank/d/set{}@auto-{n}", n % 100);
            for (property, value) in [("guid", n + 1), ("createtxg", n), ("creation", n), ("userrefs", 0)] {
                listing.push(&format!("{name}\t{property}\t{value}")).unwrap();
            }
        }
        listing.finish().unwrap()
    };
    let (source, target) = (read(1), Tree::default());
    let plans = plan(&source, &target, &policy());
    let steps: usize = plans
        .iter()
        .map(|plan| match &plan.verdict {
            Verdict::Steps(steps) => steps.len(),
            _ => 0,
        })
        .sum();
    assert_eq!((plans.len(), steps), (100, 100_000));
    assert!(plan(&source, &source, &policy()).iter().all(|plan| plan.verdict == Verdict::UpToDate));
}

/// What happens between two replications.
#[derive(Debug, Clone)]
enum Event {
    Create {
        parent: usize,
        name: char,
    },
    Snapshot(usize),
    Clone {
        of: usize,
        name: char,
    },
    Destroy {
        dataset: usize,
        snapshot: usize,
        keep_bookmark: bool,
    },
    /// Somebody takes a snapshot at the target.
    Foreign(usize),
    /// A stream breaks off, of a snapshot that is there or not.
    Break {
        dataset: usize,
        snapshot: usize,
        readable: bool,
    },
    Replicate,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let at = || 0_usize..1000;
    let name = || prop::char::range('a', 'd');
    let event = prop_oneof![
        2 => (at(), name()).prop_map(|(parent, name)| Event::Create { parent, name }),
        6 => at().prop_map(Event::Snapshot),
        2 => (at(), name()).prop_map(|(of, name)| Event::Clone { of, name }),
        3 => (at(), at(), any::<bool>()).prop_map(|(dataset, snapshot, keep_bookmark)| Event::Destroy { dataset, snapshot, keep_bookmark }),
        1 => at().prop_map(Event::Foreign),
        2 => (at(), at(), any::<bool>()).prop_map(|(dataset, snapshot, readable)| Event::Break { dataset, snapshot, readable }),
        3 => Just(Event::Replicate),
    ];
    proptest::collection::vec(event, 1..60)
}

type Pool = BTreeMap<String, Dataset>;

/// Two pools and a counter that gives GUIDs and ages.
struct World {
    source: Pool,
    target: Pool,
    next: u64,
    policy: Policy,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self { source: Pool::from([(String::new(), dataset("", &[]))]), target: Pool::new(), next: 1, policy }
    }

    fn happen(&mut self, event: &Event) {
        self.next += 1;
        let n = self.next;
        let pick = |pool: &Pool, at: usize| pool.keys().nth(at % pool.len().max(1)).cloned();
        match *event {
            Event::Create { parent, name } => {
                let path = join(&pick(&self.source, parent).unwrap(), name);
                self.source.entry(path.clone()).or_insert_with(|| dataset(&path, &[]));
            }
            Event::Snapshot(at) => {
                let path = pick(&self.source, at).unwrap();
                self.source.get_mut(&path).unwrap().snapshots.push(snapshot(&format!("s{n}"), n, n));
            }
            Event::Clone { of, name } => {
                let of = pick(&self.source, of).unwrap();
                let Some(tip) = self.source[&of].tip().map(|tip| tip.name.clone()) else { return };
                let path = name.to_string();
                let clone =
                    Dataset { origin: Some(Origin { path: of, snapshot: tip }), ..dataset(&path, &[n]) };
                self.source.entry(path).or_insert(clone);
            }
            Event::Destroy { dataset, snapshot, keep_bookmark } => {
                self.destroy(&pick(&self.source, dataset).unwrap(), snapshot, keep_bookmark);
            }
            Event::Foreign(at) => {
                let Some(path) = pick(&self.target, at) else { return };
                let there = self.target.get_mut(&path).unwrap();
                if there.half_received.is_none() {
                    there.snapshots.push(snapshot(&format!("f{n}"), n, n));
                }
            }
            Event::Break { dataset, snapshot, readable } => {
                self.break_off(&pick(&self.source, dataset).unwrap(), snapshot, readable);
            }
            Event::Replicate => self.replicate(),
        }
    }

    fn destroy(&mut self, path: &str, at: usize, keep_bookmark: bool) {
        let count = self.source[path].snapshots.len();
        if count == 0 {
            return;
        }
        let name = self.source[path].snapshots[at % count].name.clone();
        let hangs = |other: &Dataset| {
            other.origin.as_ref().is_some_and(|origin| origin.path == path && origin.snapshot == name)
        };
        if self.source.values().any(hangs) {
            return;
        }
        let dataset = self.source.get_mut(path).unwrap();
        let gone = dataset.snapshots.remove(at % count);
        if keep_bookmark {
            let bookmark = Bookmark { name, guid: gone.guid, created_txg: gone.created_txg, ivset: None };
            dataset.bookmarks.push(bookmark);
        }
    }

    fn break_off(&mut self, path: &str, at: usize, readable: bool) {
        let snapshots = &self.source[path].snapshots;
        let guid = snapshots.get(at % (snapshots.len() + 1)).map(|snapshot| snapshot.guid);
        let above = tree::parent(path)
            .is_none_or(|above| self.target.get(above).is_some_and(|above| above.half_received.is_none()));
        if !above || self.target.get(path).is_some_and(|there| there.snapshots.is_empty()) {
            return;
        }
        let there = self.target.entry(path.to_owned()).or_insert_with(|| dataset(path, &[]));
        there.half_received = Some(HalfReceived { token: "1-x".into(), guid: guid.filter(|_| readable) });
    }

    fn replicate(&mut self) {
        let tree = |pool: &Pool| Tree::new(pool.values().cloned().collect());
        let (source, before) = (tree(&self.source), self.target.clone());
        let plans = plan(&source, &tree(&before), &self.policy);
        self.carry_out(&plans);
        for (path, dataset) in &before {
            let names =
                |dataset: &Dataset| dataset.snapshots.iter().map(|s| s.name.clone()).collect::<BTreeSet<_>>();
            let kept = names(dataset).is_empty() || names(dataset).is_subset(&names(&self.target[path]));
            assert!(kept, "{path} lost snapshots");
        }
        for plan in &plans {
            self.check(plan);
        }
        let again = plan(&source, &tree(&self.target), &self.policy);
        let left = again.iter().find(|plan| matches!(plan.verdict, Verdict::Steps(_)));
        assert!(left.is_none(), "done, and yet there is more to do: {:?}", shown(&again));
    }

    /// In another order than the plans', one that they allow too.
    fn carry_out(&mut self, plans: &[DatasetPlan]) {
        let mut done = BTreeSet::new();
        while done.len() < plans.len() {
            let free =
                |at: &usize| !done.contains(at) && plans[*at].after.iter().all(|first| done.contains(first));
            let next = (0..plans.len()).rev().find(free).expect("no plan waits for ever");
            if let Verdict::Steps(steps) = &plans[next].verdict {
                for step in steps {
                    self.step(&plans[next].into, step);
                }
            }
            done.insert(next);
        }
    }

    fn step(&mut self, into: &str, step: &Step) {
        self.next += 1;
        if let Some(above) = tree::parent(into) {
            assert!(self.target.contains_key(above), "{into} has no place");
        }
        let there = self.target.get_mut(into);
        match step {
            Step::MakePlace => assert!(self.target.insert(into.into(), dataset(into, &[])).is_none()),
            Step::Abandon => {
                let there = there.expect("something is half received");
                assert!(there.half_received.take().is_some());
                if there.snapshots.is_empty() {
                    let children = self.target.keys().filter(|path| tree::parent(path) == Some(into)).count();
                    assert_eq!(children, 0, "{into} is destroyed under its children");
                    self.target.remove(into);
                }
            }
            Step::Resume { to, .. } => {
                let there = there.expect("something is half received");
                assert_eq!(there.half_received.take().unwrap().guid, Some(to.guid));
                there.snapshots.push(snapshot(&to.name, to.guid.0, self.next));
            }
            Step::Full { to } => {
                assert!(there.is_none(), "{into} is there already");
                self.receive_new(into, to);
            }
            Step::Incremental { from, to } => {
                let there = there.expect("an increment has something to land on");
                assert_eq!(there.tip().map(|tip| tip.guid), Some(from.guid), "onto {into}");
                assert!(there.half_received.is_none());
                there.snapshots.push(snapshot(&to.name, to.guid.0, self.next));
            }
            Step::Clone { from, to } => {
                assert!(there.is_none(), "{into} is there already");
                let mut all = self.target.values().flat_map(|dataset| &dataset.snapshots);
                assert!(all.any(|snapshot| snapshot.guid == from.guid), "{into} has no origin");
                self.receive_new(into, to);
            }
        }
    }

    fn receive_new(&mut self, into: &str, to: &Point) {
        let snapshots = vec![snapshot(&to.name, to.guid.0, self.next)];
        self.target.insert(into.into(), Dataset { snapshots, ..dataset(into, &[]) });
    }

    /// That the target has what a plan promised.
    fn check(&self, plan: &DatasetPlan) {
        let source = &self.source[&plan.path];
        let meant = source.snapshots.iter().filter(|snapshot| self.policy.snapshots.has(&snapshot.name));
        let meant: Vec<&Snapshot> = meant.filter(|_| self.policy.datasets.has(&plan.path)).collect();
        let Some(newest) = meant.last() else {
            return assert!(matches!(plan.verdict, Verdict::NoSnapshot | Verdict::Steps(_)));
        };
        let there = &self.target[&plan.into];
        let has = |snapshot: &Snapshot| there.snapshots.iter().any(|other| other.guid == snapshot.guid);
        // What is not meant any more, or of what a bookmark is left.
        let has_newer = || {
            let bookmarks = source.bookmarks.iter().map(|b| (b.guid, b.created_txg));
            let mut ages = bookmarks.chain(source.snapshots.iter().map(|s| (s.guid, s.created_txg)));
            let here = |guid| there.snapshots.iter().any(|snapshot| snapshot.guid == guid);
            ages.any(|(guid, txg)| txg >= newest.created_txg && here(guid))
        };
        match &plan.verdict {
            Verdict::UpToDate => assert!(has(newest) || has_newer()),
            Verdict::Steps(steps) => {
                assert!(there.tip().unwrap().guid == newest.guid || has_newer());
                let whole = self.policy.history == History::Whole;
                if whole && steps.iter().any(|step| matches!(step, Step::Full { .. })) {
                    assert!(meant.iter().all(|snapshot| has(snapshot)));
                }
            }
            Verdict::Diverged { .. } => assert!(self.policy.divergence == Divergence::Report),
            other => panic!("{other:?}"),
        }
    }
}

fn join(parent: &str, name: char) -> String {
    if parent.is_empty() { name.to_string() } else { format!("{parent}/{name}") }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn carried_out_a_plan_gives_what_the_source_has_and_takes_nothing_away(
        events in events(), newest: bool, beside: bool, some: bool,
    ) {
        let exclude = |pattern: &str| {
            let exclude = if some { vec![pattern.parse().unwrap()] } else { Vec::new() };
            Selection { include: Vec::new(), exclude }
        };
        let policy = Policy {
            datasets: exclude("**/b"),
            snapshots: exclude("*3"),
            history: if newest { History::Newest } else { History::Whole },
            divergence: if beside { Divergence::Beside } else { Divergence::Report },
            ..policy()
        };
        let mut world = World::new(policy);
        for event in events.iter().chain([&Event::Replicate]) {
            world.happen(event);
        }
    }
}
