//! Users, projects, settings.

use ds_db::{Error, TokenHash};
use ds_domain::api::{Access, ApiKey, User};
use uuid::Uuid;

use crate::place::{Place, project, user};

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
