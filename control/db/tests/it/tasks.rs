//! Tasks, their logs and results.

use ds_db::{Cancelled, Error, Noted, TaskEnd};
use ds_domain::{
    CommitId, RunId, TaskId,
    api::{ChangeKind, Run},
    task::{Outcome, Phase, State},
};
use uuid::Uuid;

use crate::place::{Place, change, metadata, project, runner, user};

pub(crate) async fn a_task_lives_once(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let task = world.task();
    assert!(db.create_task(&task).await.unwrap());
    assert!(!db.create_task(&task).await.unwrap());
    let elsewhere = project(&world.user, "other");
    db.create_project(&elsewhere).await.unwrap();
    let stolen = ds_db::NewTask { project: elsewhere.id, ..task.clone() };
    assert!(matches!(db.create_task(&stolen).await, Err(Error::Conflict(_))));

    db.note_waiting(&[(task.id, "no runner".into())]).await.unwrap();
    let row = db.task(task.id).await.unwrap();
    assert_eq!((row.task.state, row.task.detail.as_str(), row.base), (State::Queued, "no runner", None));
    assert_eq!(row.task.spec, task.spec);
    assert_eq!((row.task.author.as_str(), row.task.project_name.as_str()), ("ada", "digits"));

    let row = db.assign_task(task.id, world.runner).await.unwrap().unwrap();
    assert_eq!(
        (row.task.state, row.base, row.runner),
        (State::Scheduled, Some(world.first), Some(world.runner))
    );
    assert_eq!(row.base_snapshot, Some(db.head(world.volume).await.unwrap().snapshot));
    assert!(db.assign_task(task.id, world.runner).await.unwrap().is_none());
    assert_eq!(db.tasks_of_runner(world.runner).await.unwrap().len(), 1);
    assert_eq!(db.runner(world.runner).await.unwrap().runner.busy, 1);

    let progress = async |phase, detail, at_ms| {
        db.task_progress(task.id, world.runner, phase, detail, at_ms).await.unwrap()
    };
    let noted = Some(Noted { project: world.project, cancelling: false });
    assert_eq!(progress(Phase::Syncing, "1 of 2\0 MB", 11).await, noted);
    assert_eq!(progress(Phase::Running, "", 12).await, noted);
    assert_eq!(progress(Phase::Running, "", 13).await, noted);
    let row = db.task(task.id).await.unwrap();
    assert_eq!(
        (row.task.state, row.task.phase, row.task.started_ms),
        (State::Running, Some(Phase::Running), Some(12))
    );
    assert!(!db.requeue_task(task.id, world.runner).await.unwrap());

    let outcome = Outcome::Error;
    let (exit_code, error, warnings) = (None, "the runner is gone".into(), Vec::new());
    let end = TaskEnd { outcome, exit_code, error, warnings, started_ms: None, ended_ms: 15 };
    assert!(db.end_task(task.id, &end).await.unwrap());
    assert!(!db.end_task(task.id, &end).await.unwrap());
    assert_eq!(progress(Phase::Running, "", 16).await, None);
    assert!(db.end_task(TaskId(Uuid::new_v4()), &end).await.is_err());
    assert!(db.assigned_tasks().await.unwrap().is_empty());
    let listed = db.tasks(world.project, 10, None).await.unwrap();
    assert_eq!((listed.items[0].outcome, listed.items[0].ended_ms), (Some(Outcome::Error), Some(15)));
}

pub(crate) async fn a_queued_task_can_be_cancelled_taken_and_given_back(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let (one, two) = (world.task(), ds_db::NewTask { created_ms: 9, ..world.task() });
    db.create_task(&one).await.unwrap();
    db.create_task(&two).await.unwrap();
    let queue: Vec<TaskId> = db.queued_tasks(10).await.unwrap().iter().map(|row| row.task.id).collect();
    assert_eq!(queue, [two.id, one.id]);
    let page = db.tasks(world.project, 1, None).await.unwrap();
    assert_eq!(page.items[0].id, one.id);
    assert_eq!(db.tasks(world.project, 1, page.next.as_deref()).await.unwrap().items[0].id, two.id);

    assert_eq!(db.cancel_task(one.id, 20).await.unwrap(), Cancelled::Ended);
    assert_eq!(db.cancel_task(one.id, 21).await.unwrap(), Cancelled::Over);
    assert_eq!(db.task(one.id).await.unwrap().task.outcome, Some(Outcome::Cancelled));
    assert!(matches!(db.cancel_task(TaskId(Uuid::new_v4()), 1).await, Err(Error::NotFound { .. })));

    db.assign_task(two.id, world.runner).await.unwrap().unwrap();
    let stranger = runner("stranger", 9);
    assert!(!db.requeue_task(two.id, stranger.id).await.unwrap());
    assert!(db.task_progress(two.id, stranger.id, Phase::Running, "", 1).await.unwrap().is_none());
    assert!(db.requeue_task(two.id, world.runner).await.unwrap());
    assert_eq!(db.task(two.id).await.unwrap().runner, None);
    db.assign_task(two.id, world.runner).await.unwrap().unwrap();
    assert_eq!(db.cancel_task(two.id, 22).await.unwrap(), Cancelled::Stopping(world.runner));
    assert!(db.task(two.id).await.unwrap().task.cancelling);
    assert!(!db.requeue_task(two.id, world.runner).await.unwrap());
}

pub(crate) async fn logs_are_appended_once_and_without_gaps(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let task = world.started().await;
    assert_eq!(db.append_log(task.id, 0, b"hello ").await.unwrap(), 6);
    assert_eq!(db.append_log(task.id, 0, b"hello ").await.unwrap(), 6);
    assert_eq!(db.append_log(task.id, 3, b"lo \xff\0ld").await.unwrap(), 10);
    let gap = db.append_log(task.id, 12, b"x").await;
    assert!(matches!(gap, Err(Error::LogGap { stored: 10, offset: 12, .. })), "{gap:?}");
    assert_eq!(db.read_log(task.id, 0, 100).await.unwrap(), b"hello \xff\0ld");
    assert_eq!(db.read_log(task.id, 4, 4).await.unwrap(), b"o \xff\0");
    assert_eq!(db.read_log(task.id, 8, 1).await.unwrap(), b"l");
    assert_eq!(db.read_log(task.id, 10, 5).await.unwrap(), b"");
    assert_eq!(db.read_log(task.id, 50, 5).await.unwrap(), b"");
    assert_eq!(db.task(task.id).await.unwrap().task.log_bytes, 10);
    assert!(db.append_log(TaskId(Uuid::new_v4()), 0, b"x").await.is_err());
}

pub(crate) async fn a_result_is_recorded_once_and_whole(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let task = world.started().await;
    let finish = world.finish(&task).await;
    let committed = finish.committed.as_ref().unwrap();
    let answer = db.finish_task(&finish, metadata).await.unwrap();
    assert!(answer.new && answer.advanced && answer.branch.is_none());
    assert_eq!((answer.commit, answer.snapshot), (Some(committed.commit.id), task.result));
    let again = db.finish_task(&finish, metadata).await.unwrap();
    assert_eq!(again, ds_db::Finished { new: false, runs: Vec::new(), ..answer });
    assert_eq!(db.head(world.volume).await.unwrap().commit, committed.commit.id);

    let run = db.run(committed.runs[0].id).await.unwrap();
    assert_eq!(run, committed.runs[0]);
    let row = db.task(task.id).await.unwrap();
    assert_eq!(
        (row.task.state, row.task.outcome, row.task.exit_code),
        (State::Ended, Some(Outcome::Succeeded), Some(0))
    );
    assert_eq!((row.task.runs, row.task.commit), (vec![run.id], Some(committed.commit.id)));
    assert_eq!(row.task.warnings, ["a warning"]);
    assert_eq!(db.commit(committed.commit.id).await.unwrap().runs, [run.id]);
    assert_eq!(db.project(&world.user, "digits").await.unwrap().runs, 1);
    assert_eq!(db.run_that_wrote(committed.commit.id, "m.pkl").await.unwrap(), Some(run.id));
    assert_eq!(db.run_that_wrote(committed.commit.id, "undeclared").await.unwrap(), Some(run.id));
    assert_eq!(db.run_that_wrote(world.first, "m.pkl").await.unwrap(), None);

    let facts = db.run_facts(&[run.id, RunId(Uuid::new_v4())]).await.unwrap();
    assert_eq!((facts.len(), facts[0].project.as_str(), facts[0].volume), (1, "digits", world.volume));
    assert_eq!(facts[0].outputs, run.outputs);

    let wrong = world.started().await;
    let mut finish = world.finish(&wrong).await;
    finish.committed.as_mut().unwrap().commit.parent = world.first;
    assert!(matches!(db.finish_task(&finish, metadata).await, Err(Error::Conflict(_))));
    assert_eq!(db.task(wrong.id).await.unwrap().task.state, State::Scheduled);
}

pub(crate) async fn a_result_on_an_old_base_stays_on_a_branch(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let task = world.started().await;
    let upload = world.commit(world.first, vec![change("a", ChangeKind::Added)]);
    db.import_commit(&upload).await.unwrap();
    let finish = world.finish(&task).await;
    let answer = db.finish_task(&finish, metadata).await.unwrap();
    let branch = format!("task-{}", &task.id.to_string()[..8]);
    assert_eq!((answer.advanced, answer.branch.as_deref()), (false, Some(branch.as_str())));
    assert_eq!(db.head(world.volume).await.unwrap().commit, upload.id);
    let run = db.run(finish.committed.unwrap().runs[0].id).await.unwrap();
    assert_eq!(run.branch.as_deref(), Some(branch.as_str()));
    assert_eq!(db.task(task.id).await.unwrap().task.branch, Some(branch));
}

pub(crate) async fn of_many_at_once_each_result_is_recorded_once(place: Place) {
    let world = place.world().await;
    let mut ends = Vec::new();
    for _ in 0..6 {
        let task = world.started().await;
        ends.push(world.finish(&task).await);
    }
    let mut calls = tokio::task::JoinSet::new();
    for finish in ends.iter().chain(&ends) {
        let (db, finish) = (world.db.clone(), finish.clone());
        calls.spawn(async move { db.finish_task(&finish, metadata).await.unwrap() });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.new).count(), 6);
    assert_eq!(answers.iter().filter(|answer| answer.new && answer.advanced).count(), 1);
    let advanced = answers.iter().find(|answer| answer.advanced).unwrap();
    assert_eq!(Some(world.db.head(world.volume).await.unwrap().commit), advanced.commit);
    assert_eq!(world.db.project(&world.user, "digits").await.unwrap().runs, 6);
}

pub(crate) async fn of_calls_at_once_each_gets_its_own_answer(place: Place) {
    let world = place.world().await;
    let mut runs: Vec<Run> = (0..24).map(|_| world.run(world.first, None)).collect();
    // Refused by the database, which undoes what was written with it.
    runs[7].commit = CommitId(Uuid::new_v4());
    // Handed in by three callers.
    runs[9].id = runs[8].id;
    runs[10].id = runs[8].id;
    let mut calls = tokio::task::JoinSet::new();
    for (n, run) in runs.iter().cloned().enumerate() {
        let db = world.db.clone();
        calls.spawn(async move { (n, db.record_runs(&[run]).await) });
    }
    let mut recorded = 0;
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            (7, answer) => assert!(answer.is_err()),
            (_, answer) => recorded += answer.unwrap().len(),
        }
    }
    assert_eq!(recorded, 21);
    assert_eq!(world.db.project(&world.user, "digits").await.unwrap().runs, 21);
}

pub(crate) async fn a_run_that_is_known_keeps_its_first_record(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let first = world.run(world.first, None);
    assert_eq!(db.record_runs(std::slice::from_ref(&first)).await.unwrap(), [first.id]);
    let second = ds_domain::api::Run { description: "again".into(), ..first.clone() };
    let new = world.run(world.first, None);
    assert_eq!(db.record_runs(&[second.clone(), new.clone(), new.clone()]).await.unwrap(), [new.id]);
    assert_eq!(db.run(first.id).await.unwrap().description, "a run");
    assert_eq!(db.project(&world.user, "digits").await.unwrap().runs, 2);
    let ids: Vec<RunId> =
        db.runs(&[new.id, RunId(Uuid::new_v4()), first.id]).await.unwrap().iter().map(|r| r.id).collect();
    assert_eq!(ids, [new.id, first.id]);

    let task = world.started().await;
    let mut finish = world.finish(&task).await;
    finish.committed.as_mut().unwrap().runs.push(second);
    db.finish_task(&finish, metadata).await.unwrap();
    let warnings = db.task(task.id).await.unwrap().task.warnings;
    assert!(warnings[1].contains("was recorded before"), "{warnings:?}");

    // A task of which nothing is new has a run of its own, and its commit tells of no other.
    let task = world.started().await;
    let mut finish = world.finish(&task).await;
    let committed = finish.committed.as_mut().unwrap();
    committed.runs = vec![first.clone()];
    let (commit, otherwise) = (committed.commit.id, committed.otherwise.id);
    db.finish_task(&finish, metadata).await.unwrap();
    assert_eq!(db.task(task.id).await.unwrap().task.runs, [otherwise]);
    assert_eq!(db.commit(commit).await.unwrap().metadata["runs"], otherwise.to_string());

    // Of runs among which one is another project's, none is recorded.
    let elsewhere = project(&world.user, "elsewhere");
    db.create_project(&elsewhere).await.unwrap();
    let place = |run: ds_domain::api::Run| ds_domain::api::Run {
        project: elsewhere.id,
        commit: elsewhere.commit,
        ..run
    };
    let (fresh, taken) = (place(world.run(world.first, None)), place(first));
    assert!(matches!(db.record_runs(&[fresh.clone(), taken]).await, Err(Error::Conflict(_))));
    assert!(db.run(fresh.id).await.is_err());
}

pub(crate) async fn short_ids_name_one_thing_that_one_may_see(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let id = |text: &str| TaskId(text.parse().unwrap());
    let one = id("aaaaaaaa-0c7e-4f5b-9d1a-2b6f0f6f7a11");
    let two = id("aaaaaaaa-1c7e-4f5b-9d1a-2b6f0f6f7a11");
    for id in [one, two] {
        db.create_task(&ds_db::NewTask { id, ..world.task() }).await.unwrap();
    }
    assert_eq!(db.find_task(&world.user, "AAAAAAAA0").await.unwrap(), one);
    assert_eq!(db.find_task(&world.user, &two.to_string()).await.unwrap(), two);
    assert!(matches!(
        db.find_task(&world.user, "aaaaaaaa").await,
        Err(Error::Ambiguous { what: "task", .. })
    ));
    assert!(matches!(db.find_task(&world.user, "b").await, Err(Error::NotFound { .. })));
    assert!(matches!(db.find_task(&world.user, "not an id").await, Err(Error::NotFound { .. })));
    let eve = user("eve");
    assert!(matches!(db.find_task(&eve, "aaaaaaaa0").await, Err(Error::NotFound { .. })));
    let first = world.first.to_string();
    assert_eq!(db.find_commit(&world.user, &first[..12]).await.unwrap(), world.first);
    assert!(db.find_commit(&eve, &first).await.is_err());
    let run = world.run(world.first, None);
    db.record_runs(std::slice::from_ref(&run)).await.unwrap();
    assert_eq!(db.find_run(&world.user, &run.id.to_string()[..13]).await.unwrap(), run.id);
}
