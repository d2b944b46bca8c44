//! Commits and walks along them.

use ds_db::{Error, PathChange};
use ds_domain::{
    CommitId,
    api::{
        ChangeKind::{Added, Modified, Removed},
        RunFile,
    },
    provenance::ReadFile,
};
use uuid::Uuid;

use crate::place::{Place, change, project};

pub(crate) async fn an_upload_moves_the_head_or_is_refused(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let upload = world.commit(world.first, vec![change("b", Added), change("a", Added)]);
    db.import_commit(&upload).await.unwrap();
    db.import_commit(&upload).await.unwrap();
    assert_eq!(db.head(world.volume).await.unwrap().commit, upload.id);
    let late = db.import_commit(&world.commit(world.first, Vec::new())).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");

    let stored = db.commit(upload.id).await.unwrap();
    assert_eq!((stored.parent, stored.changed_files, stored.guid.as_str()), (Some(world.first), 2, "42"));
    let paths: Vec<String> =
        db.commit_changes(upload.id).await.unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(paths, ["a", "b"]);
    assert_eq!(db.commit_of_snapshot(upload.snapshot).await.unwrap(), Some(upload.id));
    assert_eq!(db.project_of_commit(upload.id).await.unwrap(), world.project);

    let page = db.commits(world.volume, 1, None).await.unwrap();
    assert_eq!(page.items[0].id, upload.id);
    let rest = db.commits(world.volume, 1, page.next.as_deref()).await.unwrap();
    assert_eq!((rest.items[0].id, rest.next), (world.first, None));
}

pub(crate) async fn the_newest_change_is_found_along_the_parents(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let one = world.commit(world.first, vec![change("a", Added), change("plots/1.png", Added)]);
    let two = world.commit(one.id, vec![change("b", Added)]);
    let three = world.commit(two.id, vec![change("a", Modified), change("b", Removed)]);
    for commit in [&one, &two, &three] {
        db.import_commit(commit).await.unwrap();
    }
    let newest = async |path: &str, from| db.newest_change(world.volume, path, from).await.unwrap();
    assert_eq!(newest("a", two.id).await, Some(PathChange { commit: one.id, change: Added }));
    assert_eq!(newest("a", three.id).await, Some(PathChange { commit: three.id, change: Modified }));
    assert_eq!(newest("b", three.id).await, Some(PathChange { commit: three.id, change: Removed }));
    assert_eq!(newest("plots", three.id).await, Some(PathChange { commit: one.id, change: Modified }));
    assert_eq!(newest("a", world.first).await, None);
    assert_eq!(newest("plot", three.id).await, None);

    let long = "x".repeat(3000);
    let other = format!("{}y", "x".repeat(2999));
    let four = world.commit(three.id, vec![change(&long, Added)]);
    db.import_commit(&four).await.unwrap();
    assert_eq!(newest(&long, four.id).await.unwrap().commit, four.id);
    assert_eq!(newest(&other, four.id).await, None);
}

pub(crate) async fn what_differs_between_two_commits(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let one = world.commit(world.first, vec![change("a", Added), change("b", Added), change("gone", Added)]);
    let two = world.commit(one.id, vec![change("a", Modified), change("b", Removed), change("c", Added)]);
    let three = world.commit(two.id, vec![change("c", Modified), change("d", Added)]);
    let four = world.commit(three.id, vec![change("d", Removed), change("gone", Removed)]);
    for commit in [&one, &two, &three, &four] {
        db.import_commit(commit).await.unwrap();
    }
    let differ = async |from, to| {
        let changes = db.changes_between(from, to).await.unwrap();
        changes.into_iter().map(|file| (file.path, file.change)).collect::<Vec<_>>()
    };
    let named = |list: &[(&str, _)]| {
        list.iter().map(|(path, change)| ((*path).to_owned(), *change)).collect::<Vec<_>>()
    };
    let forth = named(&[("a", Modified), ("b", Removed), ("c", Added), ("gone", Removed)]);
    assert_eq!(differ(one.id, four.id).await, forth);
    let back = named(&[("a", Modified), ("b", Added), ("c", Removed), ("gone", Added)]);
    assert_eq!(differ(four.id, one.id).await, back);
    assert_eq!(differ(two.id, two.id).await, []);
}

pub(crate) async fn facts_name_the_files_of_other_projects(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let other = project(&world.user, "prices");
    db.create_project(&other).await.unwrap();
    let start = &other.commit.to_string()[..8];
    assert_eq!(db.commit_of(other.workspace, start).await.unwrap(), Some(other.commit));
    assert_eq!(db.commit_of(world.volume, start).await.unwrap(), None, "it is another volume's");
    assert_eq!(db.commit_of(other.workspace, "no id").await.unwrap(), None);

    let mut run = world.run(world.first, None);
    let input = |path: &str, commit| RunFile { path: path.into(), commit, written_by: None };
    let gone = CommitId(Uuid::new_v4());
    run.inputs = vec![
        input("own.csv", Some(world.first)),
        input("ds://prices/50%25.csv", Some(other.commit)),
        input("ds://prices/missing", None),
        input("ds://removed/a", Some(gone)),
    ];
    db.record_runs(std::slice::from_ref(&run)).await.unwrap();
    let facts = db.run_facts(&[run.id]).await.unwrap();
    let read = |file: &ReadFile| (file.project.clone(), file.volume, file.path.clone(), file.commit);
    let file = |project: &str, volume, path: &str, commit| (project.into(), volume, path.into(), commit);
    assert_eq!(
        facts[0].inputs.iter().map(read).collect::<Vec<_>>(),
        [
            file("digits", world.volume, "own.csv", Some(world.first)),
            file("prices", other.workspace, "50%.csv", Some(other.commit)),
            file("digits", world.volume, "ds://prices/missing", None),
            file("digits", world.volume, "ds://removed/a", Some(gone)),
        ]
    );
}
