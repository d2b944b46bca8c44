//! `ds sync` without its command line: trees on pools in files, a store that runs, and tickets.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use ds_domain::TreeName;
use ds_proto::v1::{Direction, SignedTicket, TreeTicket};
use ds_transfer::tree::{Event, FarTree, Report, Route, Sync, Task};
use ds_zfs::{
    LocalTree,
    replication::{Divergence, Encrypted, History, Policy, Selection, Verdict},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::{MIB, Runner, World, no_zfs_process_is_left, noise, now_ms};

pub(crate) fn zfs(arguments: &[&str]) -> String {
    let output = Command::new("zfs").args(arguments).output().unwrap();
    assert!(output.status.success(), "zfs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn task() -> Task {
    Task {
        policy: Policy {
            datasets: Selection::default(),
            snapshots: Selection::default(),
            history: History::Whole,
            divergence: Divergence::Report,
            encrypted: Encrypted::Raw,
        },
        first: Vec::new(),
        parallel: 3,
        pace: None,
        keep: None,
        keep_source: None,
    }
}

pub(crate) fn ticket(world: &World, runner: &Runner, tree: &str, direction: Direction) -> TreeTicket {
    TreeTicket {
        peer: runner.identity.peer().node.to_bytes(),
        host: world.store.peer().node.to_bytes(),
        tree: tree.to_owned(),
        direction: direction.into(),
        issued_ms: now_ms(),
        expires_ms: now_ms() + 600_000,
    }
}

pub(crate) fn far(world: &World, runner: &Runner, tree: &str, ticket: SignedTicket) -> FarTree {
    let name: TreeName = tree.parse().unwrap();
    // The sender may go: the last ticket stays.
    let (_, tickets) = watch::channel(ticket);
    FarTree::new(runner.endpoint.clone(), world.address, world.store.peer().node, name, tickets)
}

pub(crate) fn far_for(world: &World, runner: &Runner, tree: &str, direction: Direction) -> FarTree {
    far(world, runner, tree, world.signer.sign_tree(&ticket(world, runner, tree, direction)))
}

/// A tree on the runner's pool, mounted, with a child and a grandchild.
pub(crate) struct Source {
    pub(crate) root: String,
    pub(crate) folder: PathBuf,
}

impl Source {
    pub(crate) fn new(runner: &Runner, name: &str) -> Self {
        let (root, folder) = (runner.pool.root(name), runner.pool.folder().join(name));
        zfs(&["create", "-o", &format!("mountpoint={}", folder.display()), &root]);
        Self { root, folder }
    }

    pub(crate) fn dataset(&self, path: &str) -> String {
        if path.is_empty() { self.root.clone() } else { format!("{}/{path}", self.root) }
    }

    pub(crate) fn child(&self, path: &str) {
        zfs(&["create", &self.dataset(path)]);
    }

    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        fs::write(self.folder.join(path), content).unwrap();
    }

    /// Of all of it.
    pub(crate) fn snapshot(&self, name: &str) {
        zfs(&["snapshot", "-r", &format!("{}@{name}", self.root)]);
    }

    pub(crate) async fn local(&self) -> LocalTree {
        LocalTree::open(&self.root).await.unwrap()
    }
}

pub(crate) async fn run(route: Route, task: Task) -> Report {
    let sync = Arc::new(Sync::new(route, task, CancellationToken::new()));
    let looked = sync.look().await.unwrap();
    sync.carry_out(looked, Arc::new(|_| {})).await
}

pub(crate) fn assert_done(report: &Report) {
    for target in &report.targets {
        assert_eq!(target.error, None);
        for dataset in &target.datasets {
            assert_eq!(dataset.error, None, "{dataset:?}");
        }
    }
}

/// Names and GUIDs of all snapshots below a dataset, without its own name.
pub(crate) fn guids(root: &str) -> Vec<String> {
    let listed = zfs(&["get", "-Hp", "-r", "-o", "name,value", "guid", root]);
    let snapshots = listed.lines().filter(|line| line.contains('@'));
    let mut all: Vec<_> = snapshots.map(|line| line.trim_start_matches(root).to_owned()).collect();
    all.sort();
    all
}

/// The files of a snapshot, read through a clone.
fn content(pool: &Path, snapshot: &str, file: &str) -> Vec<u8> {
    let folder = pool.join("look");
    let clone = format!("{}/look", snapshot.split('/').next().unwrap());
    zfs(&["clone", "-o", &format!("mountpoint={}", folder.display()), snapshot, &clone]);
    fs::read(folder.join(file)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_pushed_kept_in_step_and_pulled_elsewhere() {
    let world = World::start().await;
    let runner = world.runner().await;
    let source = Source::new(&runner, "data");
    for path in ["a", "b", "b/c"] {
        source.child(path);
    }
    let bulk = noise(9 * MIB);
    source.write("a/bulk", &bulk);
    source.write("b/c/small", b"one");
    source.snapshot("s1");
    let to = || vec![("store".to_owned(), far_for(&world, &runner, "photos", Direction::Push))];
    let push = async || run(Route::Push { from: source.local().await, to: to() }, task()).await;

    let first = push().await;
    assert_done(&first);
    assert_eq!(first.targets[0].datasets.iter().map(|d| d.snapshots).sum::<u64>(), 4);
    let copy = format!("{}/d/photos", world.pool.root("store"));
    assert_eq!(guids(&copy), guids(&source.root));

    source.write("b/c/small", b"two");
    source.snapshot("s2");
    source.snapshot("s3");
    let second = push().await;
    assert_done(&second);
    let small = second.targets[0].datasets.iter().find(|d| d.path == "a").unwrap();
    assert!(small.snapshots == 2 && small.bytes < MIB, "{small:?}");
    assert_eq!(guids(&copy), guids(&source.root));
    assert_eq!(push().await.targets[0].datasets.iter().map(|d| d.snapshots).sum::<u64>(), 0);
    assert!(content(world.pool.folder(), &format!("{copy}/a@s3"), "bulk") == bulk);

    let other = world.runner().await;
    let root = other.pool.root("copies/photos");
    let pull = Route::Pull {
        from: far_for(&world, &other, "photos", Direction::Pull),
        to: LocalTree::open(&root).await.unwrap(),
        name: root.clone(),
    };
    assert_done(&run(pull, task()).await);
    assert_eq!(guids(&root), guids(&source.root));
    no_zfs_process_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_stays_out_and_a_look_changes_nothing() {
    let world = World::start().await;
    let runner = world.runner().await;
    let source = Source::new(&runner, "data");
    for path in ["keep", "keep/tmp", "other"] {
        source.child(path);
    }
    source.snapshot("auto-1");
    source.snapshot("mine");
    let patterns = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    let mut some = task();
    some.policy.datasets = Selection { include: patterns(&["keep/**"]), exclude: patterns(&["**/tmp"]) };
    some.policy.snapshots.exclude = patterns(&["auto-*"]);
    let to = vec![("store".to_owned(), far_for(&world, &runner, "some", Direction::Push))];
    let sync = Sync::new(Route::Push { from: source.local().await, to }, some, CancellationToken::new());
    let sync = Arc::new(sync);
    let before = world.pool.list();
    let looked = sync.look().await.unwrap();
    assert_eq!(world.pool.list(), before);
    let plans = &looked[0].1.as_ref().unwrap().plans;
    let shown: Vec<_> = plans.iter().map(|planned| planned.plan.path.as_str()).collect();
    assert_eq!(shown, ["", "keep"]);
    assert!(plans.iter().all(|planned| matches!(planned.plan.verdict, Verdict::Steps(_))));
    let seen = Mutex::new(Vec::new());
    let seen = Arc::new(seen);
    let watch = Arc::clone(&seen);
    let report = sync.carry_out(looked, Arc::new(move |event| watch.lock().unwrap().push(event))).await;
    assert_done(&report);
    let copy = format!("{}/d/some", world.pool.root("store"));
    let names: Vec<_> = guids(&copy).iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["/keep@mine"]);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|event| matches!(event, Event::Arrived { path, .. } if path == "keep")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_for_one_node_one_tree_and_one_way() {
    let world = World::start().await;
    let (runner, other) = (world.runner().await, world.runner().await);
    let source = Source::new(&runner, "data");
    source.snapshot("s1");
    let push = async |far: FarTree| {
        let route = Route::Push { from: source.local().await, to: vec![("store".to_owned(), far)] };
        Sync::new(route, task(), CancellationToken::new()).look().await.unwrap().remove(0).1
    };
    let mut expired = ticket(&world, &runner, "t", Direction::Push);
    expired.expires_ms = now_ms() - 1;
    let stolen = world.signer.sign_tree(&ticket(&world, &other, "t", Direction::Push));
    for (ticket, words) in [(world.signer.sign_tree(&expired), "expired"), (stolen, "presents it")] {
        let error = push(far(&world, &runner, "t", ticket)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    // To fetch is not to change.
    let fetching = far_for(&world, &runner, "t", Direction::Pull);
    let report =
        run(Route::Push { from: source.local().await, to: vec![("store".to_owned(), fetching)] }, task());
    let report = report.await;
    let error = report.targets[0].datasets[0].error.as_deref().unwrap();
    assert!(!error.is_empty(), "{error}");
    assert!(!world.pool.list().iter().any(|name| name.contains("/d/t")), "{:?}", world.pool.list());
}
