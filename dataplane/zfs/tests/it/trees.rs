//! Trees under names of their own: planned from two listings, and carried out stream by stream.

use std::path::Path;

use ds_zfs::{
    Encryption, Error, LocalTree, StreamMode,
    replication::{
        self, DatasetPlan, Divergence, Encrypted, Expired, History, Mark, Policy, Selection, Step, Verdict,
    },
};

use crate::support::{Pool, connect, has, let_in, noise, pass, zfs};

fn policy() -> Policy {
    Policy {
        datasets: Selection::default(),
        snapshots: Selection::default(),
        history: History::Whole,
        divergence: Divergence::Report,
        encrypted: Encrypted::Raw,
    }
}

async fn plan(from: &LocalTree, to: &LocalTree) -> Vec<DatasetPlan> {
    replication::plan(&from.list().await.unwrap(), &to.list().await.unwrap(), &policy())
}

fn steps(plan: &DatasetPlan) -> &[Step] {
    match &plan.verdict {
        Verdict::Steps(steps) => steps,
        _ => &[],
    }
}

async fn take(from: &LocalTree, to: &LocalTree, plan: &DatasetPlan, step: &Step, mode: StreamMode) {
    match step {
        Step::MakePlace => to.make_place(&plan.into).await.unwrap(),
        Step::Abandon => to.abandon(&plan.into).await.unwrap(),
        stream => {
            let sending = from.send(&plan.path, stream, mode).await.unwrap();
            let intake = to.receive(&plan.into, &plan.path, stream, mode).await.unwrap();
            connect(sending, intake).await.unwrap();
        }
    }
}

/// Carries a plan out, as `ds sync` does, with bookmarks of what was sent last.
async fn bring(from: &LocalTree, to: &LocalTree) {
    for plan in plan(from, to).await {
        let listed = from.list().await.unwrap();
        let encrypted = listed.dataset(&plan.path).is_some_and(|dataset| dataset.encrypted);
        let encryption = if encrypted { Encryption::On } else { Encryption::Off };
        let chain = to.list().await.unwrap().dataset(&plan.into).and_then(|copy| copy.mode);
        let mode =
            StreamMode::negotiate(encryption, chain, from.features(), &to.features().streams()).unwrap();
        for step in steps(&plan) {
            take(from, to, &plan, step, mode).await;
            if let Some(brought) = step.brings() {
                from.bookmark(&plan.path, &brought.name, "other").await.unwrap();
            }
        }
    }
}

async fn trees() -> (Pool, Pool, LocalTree, LocalTree) {
    let (one, two) = (Pool::create(256).await, Pool::create(256).await);
    let [from, to] = [&one, &two].map(|pool| format!("{}/tree", pool.name));
    let mount = format!("mountpoint={}", one.folder.path().join("tree").display());
    zfs(&["create", "-o", &mount, &from]);
    (one, two, LocalTree::open(&from).await.unwrap(), LocalTree::open(&to).await.unwrap())
}

fn write(pool: &Pool, path: &str, content: &[u8]) {
    std::fs::write(pool.folder.path().join("tree").join(path), content).unwrap();
}

fn snapshot(tree: &LocalTree, name: &str) {
    zfs(&["snapshot", "-r", &format!("{}@{name}", tree.root())]);
}

async fn guids(tree: &LocalTree) -> Vec<(String, Vec<u64>)> {
    let listed = tree.list().await.unwrap();
    let of = |dataset: &replication::Dataset| {
        (dataset.path.clone(), dataset.snapshots.iter().map(|snapshot| snapshot.guid.0).collect())
    };
    listed.datasets().iter().map(of).collect()
}

#[tokio::test]
async fn a_tree_is_kept_in_step() {
    let (one, two, from, to) = trees().await;
    for child in ["a", "a/b", "empty"] {
        zfs(&["create", &format!("{}/{child}", from.root())]);
    }
    write(&one, "a/b/file", &noise(2_000_000));
    snapshot(&from, "s1");
    zfs(&["clone", &format!("{}/a@s1", from.root()), &format!("{}/clone", from.root())]);
    snapshot(&from, "s2");
    bring(&from, &to).await;
    assert_eq!(guids(&to).await, guids(&from).await);
    let origin = zfs(&["get", "-H", "-o", "value", "origin", &format!("{}/clone", to.root())]);
    assert_eq!(origin.trim(), format!("{}/a@s1", to.root()));
    let kept = zfs(&["get", "-H", "-o", "value", "readonly,mounted", &format!("{}/a", to.root())]);
    assert!(kept.starts_with("on"), "{kept}");

    // The copy may be read, and goes on all the same.
    let folder = two.folder.path().join("look");
    zfs(&["set", &format!("mountpoint={}", folder.display()), &format!("{}/a/b", to.root())]);
    if zfs(&["get", "-H", "-o", "value", "mounted", &format!("{}/a/b", to.root())]).trim() != "yes" {
        zfs(&["mount", &format!("{}/a/b", to.root())]);
    }
    assert_eq!(std::fs::read(folder.join("file")).unwrap(), noise(2_000_000));
    write(&one, "a/b/file", b"other");
    snapshot(&from, "s3");
    bring(&from, &to).await;
    assert_eq!(guids(&to).await, guids(&from).await);
    assert!(plan(&from, &to).await.iter().all(|plan| plan.verdict == Verdict::UpToDate));
}

#[tokio::test]
async fn nothing_is_received_over_what_is_there() {
    let (_one, _two, from, to) = trees().await;
    snapshot(&from, "s1");
    let full = plan(&from, &to).await.remove(0);
    let step = steps(&full)[0].clone();
    zfs(&["create", "-o", "mountpoint=none", to.root()]);
    zfs(&["snapshot", &format!("{}@s1", to.root())]);
    let before = guids(&to).await;
    let error = to.receive("", "", &step, StreamMode::PLAIN).await.unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    for wrong in ["../x", "a@b", "/a", "a//b", "-r"] {
        let error = to.receive(wrong, wrong, &step, StreamMode::PLAIN).await.unwrap_err();
        assert!(matches!(error, Error::InvalidName(_)), "{error}");
        assert!(from.send(wrong, &step, StreamMode::PLAIN).await.is_err());
    }
    assert_eq!(guids(&to).await, before);
    // A snapshot that is another by now is not sent under its name.
    zfs(&["destroy", &format!("{}@s1", from.root())]);
    snapshot(&from, "s1");
    assert!(matches!(from.send("", &step, StreamMode::PLAIN).await, Err(Error::WrongBase(_))));
}

#[tokio::test]
async fn what_went_another_way_is_forked_and_nothing_lands_elsewhere() {
    let (one, two, from, to) = trees().await;
    zfs(&["create", &format!("{}/a", from.root())]);
    snapshot(&from, "s1");
    bring(&from, &to).await;
    // Another copy, on another pool, whose newest snapshot is the base as well.
    let third = Pool::create(256).await;
    let elsewhere = LocalTree::open(&format!("{}/tree", third.name)).await.unwrap();
    bring(&from, &elsewhere).await;
    let untouched = guids(&elsewhere).await;

    zfs(&["snapshot", &format!("{}/a@theirs", to.root())]);
    write(&one, "a/file", b"two");
    snapshot(&from, "s2");
    let gone = plan(&from, &to).await;
    assert!(matches!(gone[1].verdict, Verdict::Diverged { newer: 1, .. }));
    let beside = Policy { divergence: Divergence::Beside, ..policy() };
    let plans = replication::plan(&from.list().await.unwrap(), &to.list().await.unwrap(), &beside);
    let fork = plans.iter().find(|plan| plan.into == "a.diverged-1").unwrap();
    let mode = to.list().await.unwrap().dataset("a").unwrap().mode.unwrap_or(StreamMode::PLAIN);
    let beside = format!("{}/a.diverged-1", to.root());
    if from.features().receive_excluding {
        take(&from, &to, fork, &steps(fork)[0], mode).await;
        let origin = zfs(&["get", "-H", "-o", "value", "origin", &beside]);
        assert_eq!(origin.trim(), format!("{}/a@s1", to.root()));
        zfs(&["destroy", "-r", &beside]);
    } else {
        let error = to.receive(&fork.into, "a", &steps(fork)[0], mode).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }

    // A copy that went away between the plan and the stream.
    zfs(&["destroy", "-r", to.root()]);
    let next = plan(&from, &elsewhere).await;
    let error = to.receive("a", "a", &steps(&next[1])[0], mode).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert_eq!(guids(&elsewhere).await, untouched);
    drop(two);
}

#[tokio::test]
async fn retention_spares_what_is_needed() {
    let (_one, _two, from, _to) = trees().await;
    for name in ["s1", "s2", "s3"] {
        snapshot(&from, name);
    }
    zfs(&["clone", &format!("{}@s2", from.root()), &format!("{}/clone", from.root())]);
    let snapshots = ["s1", "s2", "gone"].map(str::to_owned).to_vec();
    let destroyed = from.destroy_snapshots(&Expired { path: String::new(), snapshots }).await.unwrap();
    assert_eq!(destroyed, 2, "what is gone already counts as gone");
    let listed = from.list().await.unwrap();
    let names: Vec<_> = listed.dataset("").unwrap().snapshots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["s2", "s3"]);
}

#[tokio::test]
async fn a_bookmark_stands_in_for_what_the_source_let_go() {
    let (one, _two, from, to) = trees().await;
    if !has(from.features().bookmarks, "bookmarks") {
        return;
    }
    write(&one, "file", b"one");
    snapshot(&from, "s1");
    snapshot(&from, "s2");
    bring(&from, &to).await;
    let listed = from.list().await.unwrap();
    let bookmarks: Vec<_> = listed.dataset("").unwrap().bookmarks.iter().map(|b| b.name.clone()).collect();
    assert_eq!(bookmarks, ["dssync:other:s2"], "the newest alone is kept");
    for name in ["s1", "s2"] {
        zfs(&["destroy", &format!("{}@{name}", from.root())]);
    }
    write(&one, "file", b"three");
    snapshot(&from, "s3");
    let next = plan(&from, &to).await;
    let from_mark =
        matches!(steps(&next[0]), [Step::Incremental { from, .. }] if from.mark == Mark::Bookmark);
    assert!(from_mark, "{next:?} {:?} {:?}", from.list().await, to.list().await);
    bring(&from, &to).await;
    assert_eq!(guids(&to).await[0].1.last(), guids(&from).await[0].1.last());
}

#[tokio::test]
async fn an_encrypted_dataset_stays_encrypted_and_keeps_its_mode() {
    let (one, _two, from, to) = trees().await;
    if !has(from.features().raw, "raw streams") {
        return;
    }
    let key = one.folder.path().join("key");
    std::fs::write(&key, "a passphrase of a test").unwrap();
    let (secret, location) =
        (format!("{}/secret", from.root()), format!("keylocation=file://{}", key.display()));
    zfs(&["create", "-o", "encryption=on", "-o", "keyformat=passphrase", "-o", &location, &secret]);
    write(&one, "secret/file", b"secret");
    snapshot(&from, "s1");
    bring(&from, &to).await;
    snapshot(&from, "s2");
    bring(&from, &to).await;
    assert_eq!(guids(&to).await, guids(&from).await);
    let copy = format!("{}/secret", to.root());
    assert_eq!(zfs(&["get", "-H", "-o", "value", "keystatus,dotstream:stream", &copy]), "unavailable\nraw\n");
    let listed = to.list().await.unwrap();
    assert_eq!(listed.dataset("secret").unwrap().mode, Some(StreamMode::Raw));
    assert_eq!(listed.dataset("").unwrap().mode.unwrap().to_string(), "Lce");
    snapshot(&from, "s3");
    let next = plan(&from, &to).await;
    let plain = to.receive("secret", "secret", &steps(&next[1])[0], StreamMode::PLAIN).await;
    assert!(matches!(plain, Err(Error::OtherTreeMode { .. })));
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_stopped() {
    let (one, _two, from, to) = trees().await;
    if !has(from.features().resume, "resume tokens") {
        return;
    }
    write(&one, "file", &noise(8_000_000));
    snapshot(&from, "s1");
    let full = plan(&from, &to).await.remove(0);
    let mode =
        StreamMode::negotiate(Encryption::Off, None, from.features(), &to.features().streams()).unwrap();
    let sending = from.send("", &steps(&full)[0], mode).await.unwrap();
    let intake = to.receive("", "", &steps(&full)[0], mode).await.unwrap();
    let half = one.folder.path().join("half");
    save(sending.stdout.into(), &half, 4_000_000);
    sending.process.kill().await.unwrap();
    let (rest, receiving) = let_in(intake, std::fs::File::open(&half).unwrap()).await.unwrap();
    let (_, _) = pass(rest, receiving.stdin.into(), receiving.stream).await;
    assert!(receiving.process.suspend().await.unwrap().is_some());

    let next = plan(&from, &to).await.remove(0);
    assert!(matches!(&steps(&next)[0], Step::Resume { .. }), "{next:?}");
    let mut elsewhere = steps(&next)[0].clone();
    if let Step::Resume { to, .. } = &mut elsewhere {
        to.name = "other".to_owned();
    }
    assert!(matches!(from.send("", &elsewhere, mode).await, Err(Error::StaleTreeToken { .. })));
    take(&from, &to, &next, &steps(&next)[0], mode).await;
    assert_eq!(guids(&to).await, guids(&from).await);
}

/// The beginning of a stream.
fn save(mut stream: std::fs::File, file: &Path, bytes: u64) {
    use std::io::Read;
    let mut file = std::fs::File::create(file).unwrap();
    std::io::copy(&mut (&mut stream).take(bytes), &mut file).unwrap();
}
