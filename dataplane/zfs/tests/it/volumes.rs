//! Volumes on a real pool in a file: clones, snapshots, and advances that crash anywhere.

use crate::support::{Pool, commit, read, snapshot, task, volume, work, zfs};
use ds_zfs::{Error, Volumes};

#[tokio::test]
async fn a_task_works_on_a_clone_and_the_main_line_moves() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (volume, first) = (volume(), snapshot());
    let guid = volumes.create(volume, first).await.unwrap();
    assert_eq!(volumes.create(volume, first).await.unwrap(), guid);
    assert!(matches!(volumes.create(volume, snapshot()).await, Err(Error::Exists(_))));

    let (task, result) = (task(), snapshot());
    let home = volumes.clone_for_task(task, volume, first).await.unwrap();
    std::fs::write(home.join("model.txt"), "0.98").unwrap();
    assert_eq!(volumes.clone_for_task(task, volume, first).await.unwrap(), home);
    assert_eq!(volumes.task_mountpoint(task, volume).await.unwrap(), Some(home.clone()));
    assert_eq!(volumes.tasks().await.unwrap(), [task]);
    let taken = volumes.snapshot_task(task, volume, result).await.unwrap();
    assert_eq!(volumes.snapshot_task(task, volume, result).await.unwrap(), taken);
    std::fs::write(home.join("late.txt"), "after the snapshot").unwrap();

    volumes.advance(volume, result).await.unwrap();
    volumes.advance(volume, result).await.unwrap();
    volumes.drop_task(task).await.unwrap();
    volumes.drop_task(task).await.unwrap();
    assert_eq!(volumes.tasks().await.unwrap(), []);
    assert!(!home.exists());
    let found = volumes.snapshots(volume).await.unwrap();
    let short: Vec<_> = found.iter().map(|s| (s.id, s.guid, s.tip, s.main)).collect();
    assert_eq!(short, [(first, guid, false, true), (result, taken, true, true)]);
    assert_eq!(volumes.all_snapshots().await.unwrap().len(), 2);
    assert_eq!(volumes.volumes().await.unwrap(), [volume]);
    assert_eq!(volumes.branches(volume).await.unwrap(), []);

    let reading = volumes.reading_clone(volume, result).await.unwrap();
    assert_eq!(volumes.reading_clone(volume, result).await.unwrap(), reading);
    assert_eq!(read(&reading, "model.txt"), b"0.98");
    assert!(!reading.join("late.txt").exists());
    assert!(std::fs::write(reading.join("x"), "").is_err(), "it is read-only");
    assert_eq!(volumes.reading_clones().await.unwrap(), [result]);
    volumes.drop_reading_clone(result).await.unwrap();
    volumes.drop_reading_clone(result).await.unwrap();
    assert_eq!(volumes.reading_clones().await.unwrap(), []);

    volumes.drop_volume(volume).await.unwrap();
    volumes.drop_volume(volume).await.unwrap();
    assert_eq!(
        pool.names(),
        ["/store", "/store/b", "/store/d", "/store/r", "/store/reserve", "/store/t", "/store/v"]
    );
}

#[tokio::test]
async fn an_advance_goes_on_after_a_crash_at_any_step() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    for steps_before_the_crash in 0..=3 {
        let (volume, first) = (volume(), snapshot());
        volumes.create(volume, first).await.unwrap();
        let second = commit(&volumes, volume, first, "two", b"2").await;
        let (branch_task, branch) = work(&volumes, volume, first, "side", b"s").await;
        let (task, third) = work(&volumes, volume, second, "three", b"3").await;

        let main = pool.dataset(&format!("v/{}", volume.to_hex()));
        let clone = pool.dataset(&format!("t/{}/{}", task.to_hex(), volume.to_hex()));
        let by_hand: [&dyn Fn(); 3] =
            [&|| drop(zfs(&["promote", &clone])), &|| drop(zfs(&["destroy", &main])), &|| {
                zfs(&["unmount", &clone]);
                zfs(&["rename", &clone, &main]);
            }];
        by_hand.iter().take(steps_before_the_crash).for_each(|step| step());

        // Letting go of the task must not let go of the history that its clone took over.
        if steps_before_the_crash == 2 {
            volumes.drop_task(task).await.unwrap();
        }
        let reopened = pool.volumes().await;
        reopened.advance(volume, third).await.unwrap();
        let found = reopened.snapshots(volume).await.unwrap();
        let line: Vec<_> = found.iter().filter(|s| s.main).map(|s| s.id).collect();
        assert_eq!(line, [first, second, third], "crash after {steps_before_the_crash} steps");
        let side = found.iter().find(|s| s.id == branch).expect("the branch survives");
        assert_eq!(side.origin.as_ref().unwrap().snapshot, first);
        reopened.drop_task(task).await.unwrap();
        reopened.drop_task(branch_task).await.unwrap();
        assert!(reopened.find(volume, branch).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn an_edit_makes_a_branch_that_can_be_advanced_to_or_given_up() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (volume, first, edit, given_up) = (volume(), snapshot(), snapshot(), snapshot());
    volumes.create(volume, first).await.unwrap();

    let half = volumes.editing_clone(volume, first, edit).await.unwrap();
    std::fs::write(half.join("half"), "written before a crash").unwrap();
    let folder = volumes.editing_clone(volume, first, edit).await.unwrap();
    assert!(!folder.join("half").exists());
    std::fs::write(folder.join("data.csv"), "a,b").unwrap();
    let guid = volumes.commit_edit(volume, edit).await.unwrap();
    assert_eq!(volumes.commit_edit(volume, edit).await.unwrap(), guid);
    assert!(!folder.exists());
    assert!(matches!(volumes.editing_clone(volume, first, edit).await, Err(Error::AlreadyHere { .. })));
    volumes.advance(volume, edit).await.unwrap();
    assert!(matches!(volumes.drop_branch(volume, edit).await, Err(Error::OnMainLine { .. })));

    volumes.editing_clone(volume, edit, given_up).await.unwrap();
    volumes.drop_branch(volume, given_up).await.unwrap();
    volumes.drop_branch(volume, given_up).await.unwrap();
    assert_eq!(volumes.snapshots(volume).await.unwrap().len(), 2);
    let reading = volumes.reading_clone(volume, edit).await.unwrap();
    assert_eq!(read(&reading, "data.csv"), b"a,b");
    volumes.drop_volume(volume).await.unwrap();
    assert!(!reading.exists());
}

#[tokio::test]
async fn a_dropped_task_that_something_hangs_on_becomes_a_branch() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (volume, first) = (volume(), snapshot());
    volumes.create(volume, first).await.unwrap();
    let (earlier, result) = work(&volumes, volume, first, "f", b"1").await;
    let (later, _) = work(&volumes, volume, result, "f", b"2").await;
    assert!(matches!(volumes.drop_volume(volume).await, Err(Error::HasDependents(_))), "a task works on it");
    volumes.drop_task(earlier).await.unwrap();
    assert_eq!(volumes.branches(volume).await.unwrap(), [result]);
    let kept = volumes.find(volume, result).await.unwrap().unwrap();
    assert_eq!(kept.filesystem, pool.dataset(&format!("b/{}/{}", volume.to_hex(), result.to_hex())));
    assert!(matches!(volumes.drop_branch(volume, result).await, Err(Error::HasDependents(_))));
    volumes.drop_task(later).await.unwrap();
    volumes.drop_branch(volume, result).await.unwrap();
    assert_eq!(volumes.snapshots(volume).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_clone_in_use_is_busy_and_can_be_advanced_later() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (volume, first) = (volume(), snapshot());
    volumes.create(volume, first).await.unwrap();
    let (task, result) = work(&volumes, volume, first, "open", b"1").await;
    let home = volumes.task_mountpoint(task, volume).await.unwrap().unwrap();
    let open = std::fs::File::open(home.join("open")).unwrap();
    let error = volumes.advance(volume, result).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.is_retryable(), "{error}");
    drop(open);
    volumes.advance(volume, result).await.unwrap();
}

#[tokio::test]
async fn held_snapshots_stay_until_their_owner_lets_go() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (volume, first) = (volume(), snapshot());
    volumes.create(volume, first).await.unwrap();
    for owner in ["one", "two", "two"] {
        volumes.hold(volume, first, owner).await.unwrap();
    }
    volumes.release_all("one").await.unwrap();
    assert!(matches!(volumes.drop_volume(volume).await, Err(Error::Busy(_))));
    volumes.release(volume, first, "two").await.unwrap();
    volumes.release(volume, first, "two").await.unwrap();
    volumes.drop_volume(volume).await.unwrap();
    volumes.release(volume, first, "two").await.unwrap();
    assert!(matches!(volumes.hold(volume, first, "one").await, Err(Error::SnapshotMissing { .. })));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Volumes::open("dstestnopool/store", folder.path()).await.unwrap_err();
    assert!(matches!(&missing, Error::PoolMissing { pool } if pool == "dstestnopool"), "{missing}");
    assert!(matches!(Volumes::open("-r", folder.path()).await, Err(Error::InvalidRoot { .. })));

    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (volume, unknown) = (volume(), snapshot());
    assert_eq!(volumes.snapshots(volume).await.unwrap(), []);
    assert_eq!(volumes.task_mountpoint(task(), volume).await.unwrap(), None);
    assert!(volumes.advance(volume, unknown).await.unwrap_err().is_not_found());
    assert!(volumes.clone_for_task(task(), volume, unknown).await.unwrap_err().is_not_found());
    assert!(volumes.reading_clone(volume, unknown).await.unwrap_err().is_not_found());
    volumes.drop_branch(volume, unknown).await.unwrap();
}

#[tokio::test]
async fn a_pool_in_a_file_is_made_once_and_imported_again() {
    let pool = Pool::create(128).await;
    assert!(ds_zfs::pool_exists(&pool.name).await.unwrap());
    ds_zfs::create_file_pool(&pool.name, &pool.file(), 1 << 30).await.unwrap();
    let exported = std::process::Command::new("zpool").args(["export", &pool.name]).status().unwrap();
    assert!(exported.success());
    assert!(!ds_zfs::pool_exists(&pool.name).await.unwrap());
    ds_zfs::create_file_pool(&pool.name, &pool.file(), 128 << 20).await.unwrap();
    assert!(ds_zfs::pool_exists(&pool.name).await.unwrap());
    ds_zfs::destroy_pool(&pool.name).await.unwrap();
    ds_zfs::destroy_pool(&pool.name).await.unwrap();
    assert!(!ds_zfs::pool_exists(&pool.name).await.unwrap());
}

#[tokio::test]
async fn a_volume_begun_as_a_clone_goes_its_own_way_and_keeps_its_source() {
    let pool = Pool::create(128).await;
    let volumes = pool.volumes().await;
    let (source, first) = (volume(), snapshot());
    volumes.create(source, first).await.unwrap();
    let base = commit(&volumes, source, first, "data", b"1").await;
    let (clone, begun) = (volume(), snapshot());
    let guid = volumes.create_from(clone, begun, source, base).await.unwrap();
    assert_eq!(volumes.create_from(clone, begun, source, base).await.unwrap(), guid);
    let missing = volumes.create_from(volume(), snapshot(), source, snapshot()).await;
    assert!(matches!(missing, Err(Error::SnapshotMissing { .. })), "{missing:?}");
    assert!(matches!(volumes.create_from(source, begun, source, base).await, Err(Error::Exists(_))));

    // Both move on; neither takes the other's snapshots along.
    let theirs = commit(&volumes, clone, begun, "data", b"2").await;
    let ours = commit(&volumes, source, base, "data", b"3").await;
    let line = async |volume| {
        let found = volumes.snapshots(volume).await.unwrap();
        found.iter().filter(|s| s.main && s.origin.is_none()).map(|s| s.id).collect::<Vec<_>>()
    };
    assert_eq!(line(clone).await, [begun, theirs]);
    assert_eq!(line(source).await, [first, base, ours]);
    for (volume, at, expected) in [(clone, begun, b"1"), (clone, theirs, b"2"), (source, ours, b"3")] {
        let reading = volumes.reading_clone(volume, at).await.unwrap();
        assert_eq!(read(&reading, "data"), expected);
    }

    let held = volumes.drop_volume(source).await;
    assert!(matches!(held, Err(Error::HasDependents(_))), "{held:?}");
    volumes.drop_volume(clone).await.unwrap();
    volumes.drop_volume(source).await.unwrap();
    assert_eq!(volumes.volumes().await.unwrap(), []);
}
