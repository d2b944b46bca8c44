//! Which runner gets which task.
//!
//! Tasks are served in the order of the queue; one that cannot be placed does not hold up the ones behind it. Among the
//! runners that fit and have a free slot, the one that holds the task's base snapshot wins, then the one with the most free
//! slots, then the first by name.

use std::collections::{BTreeMap, HashSet};

use crate::{RunnerId, SnapshotId, TaskId, task::Gpus};

/// A queued task.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Which.
    pub task: TaskId,
    /// Labels that the runner must have, with these values.
    pub labels: BTreeMap<String, String>,
    /// CPUs that the machine must have.
    pub cpus: Option<f64>,
    /// Memory that the machine must have.
    pub memory_bytes: Option<u64>,
    /// GPUs that the machine must have.
    pub gpus: Option<Gpus>,
    /// The snapshot that it starts from.
    pub base: SnapshotId,
}

/// A connected runner.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub runner: RunnerId,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Tasks that it executes at once.
    pub slots: u32,
    /// Tasks that it has.
    pub busy: u32,
    /// CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// GPUs.
    pub gpus: u32,
    /// Committed snapshots on its pool.
    pub holds: HashSet<SnapshotId>,
    /// Tasks of which it still drops what it had: it can take them again only after that.
    pub letting_go: HashSet<TaskId>,
}

/// What the scheduler decided: every waiting task is in one of the two lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decisions {
    /// Which runner gets which task.
    pub assign: Vec<(TaskId, RunnerId)>,
    /// Why the others wait; for people.
    pub waiting: Vec<(TaskId, String)>,
}

/// Places tasks, given in queue order, on connected runners.
///
/// `registered` is how many runners the hub knows, connected or not: it decides what a person is told to do when none is
/// connected.
pub fn schedule(tasks: &[Waiting], runners: &[Candidate], registered: usize) -> Decisions {
    let mut free: Vec<u32> = runners.iter().map(|runner| runner.slots.saturating_sub(runner.busy)).collect();
    let mut decisions = Decisions::default();
    for task in tasks {
        match place(task, runners, &free, registered) {
            Ok(index) => {
                free[index] -= 1;
                decisions.assign.push((task.task, runners[index].runner));
            }
            Err(reason) => decisions.waiting.push((task.task, reason)),
        }
    }
    decisions
}

/// The position of the best runner, or why there is none.
fn place(task: &Waiting, runners: &[Candidate], free: &[u32], registered: usize) -> Result<usize, String> {
    let fitting = fitting(task, runners, registered)?;
    fitting
        .iter()
        .copied()
        .filter(|&index| free[index] > 0)
        .max_by(|&a, &b| {
            let rank = |index: usize| (runners[index].holds.contains(&task.base), free[index]);
            rank(a).cmp(&rank(b)).then_with(|| runners[b].name.cmp(&runners[a].name))
        })
        .ok_or_else(|| full(&fitting, runners, free))
}

/// The positions of the runners that could execute the task if they had a slot; narrowed step by step, so that the step
/// that leaves none is the reason.
fn fitting(task: &Waiting, runners: &[Candidate], registered: usize) -> Result<Vec<usize>, String> {
    if runners.is_empty() {
        return Err(match registered {
            0 => "no runner is registered; make one with `ds runner create NAME`".into(),
            1 => "the only runner is not connected; start it with `ds runner run`".into(),
            n => format!("none of the {n} runners is connected; start one with `ds runner run`"),
        });
    }
    let mut left: Vec<usize> = (0..runners.len()).collect();
    for (name, value) in &task.labels {
        left.retain(|&index| runners[index].labels.get(name) == Some(value));
        if left.is_empty() {
            return Err(lacks_label(task, runners, name, value));
        }
    }
    let who =
        if task.labels.is_empty() { "no connected runner" } else { "no connected runner with its labels" };
    if let Some(cpus) = task.cpus {
        let largest = left.iter().map(|&index| runners[index].cpus).max().unwrap_or(0);
        left.retain(|&index| f64::from(runners[index].cpus) >= cpus);
        if left.is_empty() {
            return Err(format!("{who} has {}; the largest has {largest}", count_cpus(cpus)));
        }
    }
    if let Some(memory) = task.memory_bytes {
        let largest = left.iter().map(|&index| runners[index].memory_bytes).max().unwrap_or(0);
        left.retain(|&index| runners[index].memory_bytes >= memory);
        if left.is_empty() {
            return Err(format!("{who} has {} of memory; the largest has {}", gib(memory), gib(largest)));
        }
    }
    if let Some(gpus) = task.gpus {
        let needed = match gpus {
            Gpus::All => 1,
            Gpus::Count(count) => count,
        };
        let largest = left.iter().map(|&index| runners[index].gpus).max().unwrap_or(0);
        left.retain(|&index| runners[index].gpus >= needed);
        if left.is_empty() {
            let plural = if needed == 1 { "a GPU".into() } else { format!("{needed} GPUs") };
            return Err(if largest == 0 {
                format!("{who} has {plural}")
            } else {
                format!("{who} has {plural}; the most is {largest}")
            });
        }
    }
    left.retain(|&index| !runners[index].letting_go.contains(&task.task));
    if left.is_empty() {
        return Err("its runner drops what an earlier attempt left; it starts again after that".into());
    }
    Ok(left)
}

/// Either nobody has the label, or nobody has it together with the labels before it.
fn lacks_label(task: &Waiting, runners: &[Candidate], name: &str, value: &str) -> String {
    if runners.iter().any(|runner| runner.labels.get(name).is_some_and(|has| has == value)) {
        let all: Vec<String> = task.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        return format!("no connected runner has all of the labels {}", all.join(", "));
    }
    format!("no connected runner has label {name}={value}")
}

fn full(fitting: &[usize], runners: &[Candidate], free: &[u32]) -> String {
    let slots: u32 = fitting.iter().map(|&index| runners[index].slots).sum();
    let busy: u32 = slots.saturating_sub(fitting.iter().map(|&index| free[index]).sum());
    match fitting {
        [one] => {
            format!("the only runner that fits, {}, is full ({busy} of {slots} slots)", runners[*one].name)
        }
        many => format!("all {} runners that fit are full ({busy} of {slots} slots)", many.len()),
    }
}

fn count_cpus(cpus: f64) -> String {
    if (cpus - 1.0).abs() < f64::EPSILON { "1 CPU".into() } else { format!("{cpus} CPUs") }
}

fn gib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 30;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn task(id: u128) -> Waiting {
        Waiting {
            task: TaskId(Uuid::from_u128(id)),
            labels: BTreeMap::new(),
            cpus: None,
            memory_bytes: None,
            gpus: None,
            base: SnapshotId(Uuid::from_u128(100)),
        }
    }

    fn runner(name: &str, slots: u32, busy: u32) -> Candidate {
        Candidate {
            runner: RunnerId(Uuid::from_u128(u128::from(name.as_bytes()[0]))),
            name: name.into(),
            labels: BTreeMap::from([("zone".into(), name.into())]),
            slots,
            busy,
            cpus: 8,
            memory_bytes: 16 << 30,
            gpus: 0,
            holds: HashSet::new(),
            letting_go: HashSet::new(),
        }
    }

    fn reason(task: Waiting, runners: &[Candidate]) -> String {
        let decisions = schedule(&[task], runners, runners.len());
        assert_eq!(decisions.assign, []);
        decisions.waiting.into_iter().next().unwrap().1
    }

    fn names(tasks: &[Waiting], runners: &[Candidate]) -> Vec<String> {
        let of = |id: RunnerId| runners.iter().find(|runner| runner.runner == id).unwrap().name.clone();
        schedule(tasks, runners, runners.len()).assign.into_iter().map(|(_, runner)| of(runner)).collect()
    }

    #[test]
    fn whoever_holds_the_base_wins_then_free_slots_then_the_name() {
        let mut runners = [runner("c", 2, 0), runner("a", 4, 2), runner("b", 2, 0)];
        assert_eq!(names(&[task(1)], &runners), ["a"]);
        runners[2].slots = 3;
        assert_eq!(names(&[task(1)], &runners), ["b"]);
        runners[0].holds.insert(SnapshotId(Uuid::from_u128(100)));
        assert_eq!(names(&[task(1), task(2), task(3)], &runners), ["c", "c", "b"]);
    }

    #[test]
    fn a_runner_that_still_lets_go_of_a_task_does_not_get_it() {
        let mut runners = [runner("a", 2, 0), runner("b", 1, 0)];
        runners[0].letting_go.insert(task(1).task);
        assert_eq!(names(&[task(1), task(2)], &runners), ["b", "a"]);
        assert!(reason(task(1), &runners[..1]).contains("earlier attempt"));
    }

    #[test]
    fn slots_are_counted_as_they_are_given_out() {
        let decisions = schedule(&[task(1), task(2), task(3)], &[runner("a", 3, 1)], 1);
        assert_eq!(decisions.assign.len(), 2);
        assert_eq!(decisions.waiting[0].1, "the only runner that fits, a, is full (3 of 3 slots)");
    }

    #[test]
    fn what_waits_says_why() {
        let two = [runner("a", 2, 2), runner("b", 1, 1)];
        assert_eq!(
            schedule(&[task(1)], &[], 0).waiting[0].1,
            "no runner is registered; make one with `ds runner create NAME`"
        );
        assert!(schedule(&[task(1)], &[], 2).waiting[0].1.contains("none of the 2 runners is connected"));
        assert_eq!(reason(task(1), &two), "all 2 runners that fit are full (3 of 3 slots)");
        let labelled = |labels: &[(&str, &str)]| Waiting {
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..task(1)
        };
        assert_eq!(reason(labelled(&[("gpu", "a100")]), &two), "no connected runner has label gpu=a100");
        let mut apart = two.clone();
        apart[0].labels.insert("gpu".into(), "a100".into());
        let both = labelled(&[("gpu", "a100"), ("zone", "b")]);
        assert_eq!(reason(both, &apart), "no connected runner has all of the labels gpu=a100, zone=b");
        let cpus = Waiting { cpus: Some(64.0), ..task(1) };
        assert_eq!(reason(cpus, &two), "no connected runner has 64 CPUs; the largest has 8");
        let memory = Waiting { memory_bytes: Some(32 << 30), ..task(1) };
        assert_eq!(
            reason(memory, &two),
            "no connected runner has 32.0 GiB of memory; the largest has 16.0 GiB"
        );
        assert_eq!(
            reason(Waiting { gpus: Some(Gpus::All), ..task(1) }, &two),
            "no connected runner has a GPU"
        );
    }

    #[test]
    fn a_task_that_cannot_be_placed_holds_nobody_up() {
        let large = Waiting { cpus: Some(64.0), ..task(1) };
        let decisions = schedule(&[large, task(2)], &[runner("a", 1, 0)], 1);
        assert_eq!(decisions.assign[0].0, TaskId(Uuid::from_u128(2)));
    }

    proptest! {
        #[test]
        fn no_runner_gets_more_than_it_has_slots(
            shape in proptest::collection::vec((0..4u32, 0..6u32), 0..5),
            wanted in 0..20u128,
        ) {
            let runners: Vec<_> = shape.iter().zip(["a", "b", "c", "d", "e"]).map(|((slots, busy), name)| runner(name, *slots, *busy)).collect();
            let tasks: Vec<_> = (0..wanted).map(task).collect();
            let decisions = schedule(&tasks, &runners, runners.len());
            prop_assert_eq!(decisions.assign.len() + decisions.waiting.len(), tasks.len());
            let mut free = 0;
            for runner in &runners {
                let given = decisions.assign.iter().filter(|(_, id)| *id == runner.runner).count();
                let room = usize::try_from(runner.slots.saturating_sub(runner.busy)).unwrap();
                prop_assert!(given <= room);
                free += room - given;
            }
            prop_assert!(decisions.waiting.is_empty() || free == 0);
        }
    }
}
