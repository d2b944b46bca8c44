//! Users, projects, settings.

use ds_db::{Error, TokenHash};
use ds_domain::api::{Access, ApiKey, User};
use uuid::Uuid;

use crate::place::{Place, metadata, project, user};

pub(crate) async fn users_sessions_and_keys(place: Place) {
    let db = place.open().await;
    let ada = user("ada");
    db.create_user(&ada, "hash").await.unwrap();
    let again = db.create_user(&User { id: user("x").id, ..ada.clone() }, "hash").await.unwrap_err();
    assert!(matches!(&again, Error::Conflict(words) if words.contains("\"ada\"")), "{again:?}");
    assert_eq!(db.user(ada.id).await.unwrap(), ada);
    assert_eq!(db.credentials("ada").await.unwrap().unwrap().password_hash, "hash");
    assert!(db.credentials("bob").await.unwrap().is_none());
    assert!(matches!(db.user_by_name("bob").await, Err(Error::NotFound { what: "user", .. })));

    let token = TokenHash([7; 32]);
    db.create_session(token, ada.id, 1, 100).await.unwrap();
    assert_eq!(db.session_user(token, 99).await.unwrap(), Some(ada.clone()));
    assert_eq!(db.session_user(token, 100).await.unwrap(), None);
    assert_eq!(db.delete_expired_sessions(100).await.unwrap(), 1);
    db.create_session(token, ada.id, 1, 100).await.unwrap();
    db.set_password(ada.id, "other").await.unwrap();
    assert_eq!(db.session_user(token, 2).await.unwrap(), None);

    let key = ApiKey { id: Uuid::new_v4(), name: "ci".into(), created_ms: 1, used_ms: None };
    db.create_key(ada.id, &key, token).await.unwrap();
    assert_eq!(db.key_user(token, 50).await.unwrap(), Some(ada.clone()));
    assert_eq!(db.key_user(token, 60).await.unwrap(), Some(ada.clone()));
    let kept = db.keys(ada.id).await.unwrap();
    assert_eq!((kept.len(), kept[0].id, kept[0].used_ms), (1, key.id, Some(50)));
    assert!(db.delete_key(user("eve").id, key.id).await.is_err());
    db.delete_key(ada.id, key.id).await.unwrap();
    assert_eq!(db.key_user(token, 70).await.unwrap(), None);
}

pub(crate) async fn projects_and_members(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let (bob, root) = (user("bob"), User { admin: true, ..user("root") });
    db.create_user(&bob, "").await.unwrap();
    db.create_user(&root, "").await.unwrap();

    let shown = db.project(&world.user, "digits").await.unwrap();
    assert_eq!((shown.id, shown.access, shown.head), (world.project, Access::Owner, world.first));
    assert_eq!(db.project(&world.user, &world.project.to_hex()).await.unwrap().id, world.project);
    assert!(matches!(db.project(&bob, "digits").await, Err(Error::NotFound { .. })));
    assert_eq!(db.project(&root, "digits").await.unwrap().access, Access::Owner);
    assert_eq!(db.head(world.volume).await.unwrap().guid, u64::MAX);

    db.set_member(world.project, bob.id, Access::Viewer).await.unwrap();
    assert_eq!(db.projects(&bob).await.unwrap()[0].access, Access::Viewer);
    assert_eq!(db.access(&bob, world.project).await.unwrap(), Some(Access::Viewer));
    let last = db.set_member(world.project, world.user.id, Access::Editor).await;
    assert!(matches!(last, Err(Error::Conflict(_))));
    assert!(db.remove_member(world.project, world.user.id).await.is_err());
    assert_eq!(db.access(&world.user, world.project).await.unwrap(), Some(Access::Owner));
    db.set_member(world.project, bob.id, Access::Owner).await.unwrap();
    db.remove_member(world.project, world.user.id).await.unwrap();
    assert_eq!(db.members(world.project).await.unwrap().len(), 1);

    let taken = db.create_project(&project(&bob, "digits")).await;
    assert!(matches!(taken, Err(Error::Conflict(_))));
    let mut other = project(&bob, "other");
    db.create_project(&other).await.unwrap();
    other.name = "asked twice".into();
    db.create_project(&other).await.unwrap();
    assert_eq!(db.project_rows().await.unwrap().len(), 2);
    assert_eq!(db.project_row(other.id).await.unwrap().head_snapshot, other.snapshot);
}

pub(crate) async fn a_removed_user_leaves_what_they_made(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let (ada, root) = (&world.user, User { admin: true, ..user("root") });
    db.create_user(&root, "hash").await.unwrap();
    let task = world.task();
    db.create_task(&task).await.unwrap();
    let (session, key) = (TokenHash([1; 32]), TokenHash([2; 32]));
    db.create_session(session, ada.id, 1, 100).await.unwrap();
    let named = ApiKey { id: Uuid::new_v4(), name: "ci".into(), created_ms: 1, used_ms: None };
    db.create_key(ada.id, &named, key).await.unwrap();

    let last = db.remove_user(root.id, ada.id, 5).await.unwrap_err();
    assert!(matches!(&last, Error::Conflict(words) if words.contains("last admin")), "{last:?}");
    assert!(db.credentials("root").await.unwrap().is_some(), "nothing of it was done");
    assert_eq!(db.remove_user(ada.id, root.id, 5).await.unwrap(), ["digits"]);
    assert!(matches!(db.remove_user(ada.id, root.id, 5).await, Err(Error::NotFound { what: "user", .. })));

    assert!(db.credentials("ada").await.unwrap().is_none());
    assert!(db.user(ada.id).await.is_err() && db.set_password(ada.id, "other").await.is_err());
    assert_eq!(db.session_user(session, 1).await.unwrap(), None);
    assert_eq!(db.key_user(key, 1).await.unwrap(), None);
    assert_eq!(db.users().await.unwrap(), std::slice::from_ref(&root));
    assert_eq!(db.members(world.project).await.unwrap()[0].username, "root");
    assert_eq!(db.task(task.id).await.unwrap().task.author, "ada");
    let again = db.create_user(&user("ada"), "hash").await.unwrap_err();
    assert!(matches!(&again, Error::Conflict(words) if words.contains("was")), "{again:?}");
}

pub(crate) async fn a_deleted_project_leaves_nothing_and_frees_its_name(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let kept = project(&world.user, "kept");
    db.create_project(&kept).await.unwrap();
    let task = world.started().await;
    let open = db.delete_project(world.project).await.unwrap_err();
    let short = &task.id.to_string()[..8];
    assert!(matches!(&open, Error::Conflict(words) if words.contains(short)), "{open:?}");
    db.append_log(task.id, 0, b"one\n").await.unwrap();
    let finish = world.finish(&task).await;
    let done = db.finish_task(&finish, metadata).await.unwrap();
    // A second commit, so that one points at the other.
    let next = world.started().await;
    db.finish_task(&world.finish(&next).await, metadata).await.unwrap();

    db.delete_project(world.project).await.unwrap();
    assert!(matches!(db.delete_project(world.project).await, Err(Error::NotFound { what: "project", .. })));
    assert!(matches!(db.task(task.id).await, Err(Error::NotFound { .. })));
    assert!(matches!(db.run(done.runs[0].id).await, Err(Error::NotFound { .. })));
    assert!(matches!(db.commit(done.commit.unwrap()).await, Err(Error::NotFound { .. })));
    assert!(db.read_log(task.id, 0, 100).await.unwrap().is_empty());
    assert_eq!(db.project_rows().await.unwrap().len(), 1, "the volume is unknown, and others are not");
    db.create_project(&project(&world.user, "digits")).await.unwrap();
}

pub(crate) async fn settings_survive_a_restart(place: Place) {
    let db = place.open().await;
    db.set_setting("image", "a").await.unwrap();
    db.set_setting("image", "b").await.unwrap();
    db.close().await;
    let db = place.open().await;
    db.ping().await.unwrap();
    assert_eq!(db.setting("image").await.unwrap().as_deref(), Some("b"));
    assert_eq!(db.setting("none").await.unwrap(), None);
}
