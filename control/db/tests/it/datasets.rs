//! Datasets.

use ds_db::{Error, NewDataset, dataset_place};
use ds_domain::{
    CommitId, SnapshotId, VolumeId,
    api::{Access, ChangeKind::Added, User},
};
use uuid::Uuid;

use crate::place::{Place, change, project, user};

fn dataset(owner: &User, name: &str, cloned_from: Option<CommitId>) -> NewDataset {
    NewDataset {
        volume: VolumeId(Uuid::new_v4()),
        name: name.into(),
        description: "pictures".into(),
        owner: owner.id,
        commit: CommitId(Uuid::new_v4()),
        snapshot: SnapshotId(Uuid::new_v4()),
        guid: 7,
        cloned_from,
        created_ms: 1,
    }
}

pub(crate) async fn a_dataset_is_kept_apart_from_projects_under_one_namespace(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let (bob, root) = (user("bob"), User { admin: true, ..user("root") });
    db.create_user(&bob, "").await.unwrap();
    db.create_user(&root, "").await.unwrap();
    let new = dataset(&world.user, "images", None);
    db.create_dataset(&new).await.unwrap();
    db.create_dataset(&new).await.unwrap();

    let shown = db.dataset(&world.user, "images").await.unwrap();
    assert_eq!((shown.id, shown.head, shown.access), (new.volume, new.commit, Access::Owner));
    assert_eq!(db.dataset(&world.user, &new.volume.to_hex()).await.unwrap().name, "images");
    assert!(matches!(db.dataset(&bob, "images").await, Err(Error::NotFound { what: "dataset", .. })));
    assert_eq!(db.datasets(&root).await.unwrap().len(), 1);
    assert!(
        db.project(&world.user, "images").await.is_err() && db.dataset(&world.user, "digits").await.is_err()
    );
    assert_eq!(db.projects(&root).await.unwrap().len(), 1);
    assert_eq!(db.project_rows().await.unwrap().len(), 2, "the store keeps both");
    let taken = db.create_dataset(&dataset(&bob, "digits", None)).await.unwrap_err();
    assert!(matches!(&taken, Error::Conflict(words) if words.contains("\"digits\"")), "{taken:?}");
    assert!(matches!(db.create_project(&project(&bob, "images")).await, Err(Error::Conflict(_))));

    db.set_member(dataset_place(new.volume), bob.id, Access::Viewer).await.unwrap();
    assert_eq!(db.datasets(&bob).await.unwrap()[0].access, Access::Viewer);
    assert_eq!(db.find_commit(&bob, &new.commit.to_string()).await.unwrap(), new.commit);
    let mut upload = world.commit(new.commit, vec![change("a.png", Added)]);
    upload.volume = new.volume;
    db.import_commit(&upload).await.unwrap();
    assert_eq!(db.dataset(&bob, "images").await.unwrap().head, upload.id);
    let log = db.commits(new.volume, 10, None).await.unwrap();
    let messages: Vec<_> = log.items.iter().map(|commit| commit.message.as_str()).collect();
    assert_eq!(messages, ["upload", "dataset created"]);
    assert_eq!(db.remove_user(world.user.id, root.id, 5).await.unwrap(), ["digits", "images"]);
}

pub(crate) async fn what_was_cloned_from_keeps_its_source(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let source = dataset(&world.user, "images", None);
    db.create_dataset(&source).await.unwrap();
    let clone = dataset(&world.user, "small", Some(source.commit));
    db.create_dataset(&clone).await.unwrap();
    assert_eq!(db.dataset(&world.user, "small").await.unwrap().cloned_from, Some(source.commit));
    let first = db.commit(clone.commit).await.unwrap();
    assert_eq!(first.message, format!("cloned from images@{}", &source.commit.to_string()[..8]));
    let nowhere = dataset(&world.user, "nothing", Some(CommitId(Uuid::new_v4())));
    assert!(matches!(db.create_dataset(&nowhere).await, Err(Error::NotFound { what: "commit", .. })));

    let kept = db.delete_dataset(source.volume).await.unwrap_err();
    assert!(matches!(&kept, Error::Conflict(words) if words.contains("small")), "{kept:?}");
    db.delete_dataset(clone.volume).await.unwrap();
    db.delete_dataset(source.volume).await.unwrap();
    assert!(matches!(db.delete_dataset(source.volume).await, Err(Error::NotFound { .. })));
    assert!(db.commit(source.commit).await.is_err());
    let project = db.delete_dataset(VolumeId(world.project.0)).await;
    assert!(matches!(project, Err(Error::NotFound { what: "dataset", .. })), "{project:?}");
    assert!(db.project(&world.user, "digits").await.is_ok());
}
