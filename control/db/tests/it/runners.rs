//! Runners.

use std::collections::BTreeMap;

use ds_db::{Error, RunnerHello, TokenHash};
use ds_domain::api::Machine;

use crate::place::{Place, metadata, runner};

pub(crate) async fn a_token_registers_once(place: Place) {
    let db = place.open().await;
    let new = runner("box", 3);
    db.create_runner(&new).await.unwrap();
    let wrong = db.register_runner(TokenHash([4; 32]), [1; 32], 10).await;
    assert!(matches!(wrong, Err(Error::NotFound { .. })), "{wrong:?}");
    let late = db.register_runner(new.token, [1; 32], 1000).await.unwrap_err();
    assert!(late.to_string().contains("expired"), "{late}");
    assert_eq!(db.runner_of_token(new.token, 10).await.unwrap().runner.id, new.id);
    let row = db.register_runner(new.token, [0xab; 32], 10).await.unwrap();
    assert_eq!((row.runner.registered, row.certificate), (true, Some([0xab; 32])));
    let replay = db.register_runner(new.token, [1; 32], 11).await.unwrap_err();
    assert!(replay.to_string().contains("used already"), "{replay}");
}

pub(crate) async fn a_removed_runner_leaves_its_name(place: Place) {
    let world = place.world().await;
    let db = &world.db;
    let hello = RunnerHello {
        labels: BTreeMap::from([("gpu".into(), "a100".into())]),
        slots: 2,
        version: "0.1.0".into(),
        machine: Machine { cpus: 8, ..Machine::default() },
    };
    db.runner_connected(world.runner, &hello, 50).await.unwrap();
    db.runner_seen(world.runner, 60).await.unwrap();
    let row = db.find_runner("box").await.unwrap();
    assert_eq!((row.runner.slots, row.runner.seen_ms), (2, Some(60)));
    assert_eq!(row.runner.machine, Some(hello.machine.clone()));
    assert!(matches!(db.create_runner(&runner("box", 5)).await, Err(Error::Conflict(_))));

    let task = world.started().await;
    let busy = db.remove_runner(world.runner, 70).await.unwrap_err();
    assert!(busy.to_string().contains("has 1 tasks"), "{busy}");
    db.finish_task(&world.finish(&task).await, metadata).await.unwrap();
    db.remove_runner(world.runner, 70).await.unwrap();
    assert!(db.runner(world.runner).await.is_err());
    assert!(db.runner_ever(world.runner).await.unwrap().removed);
    assert!(db.runner_connected(world.runner, &hello, 80).await.is_err());
    db.create_runner(&runner("box", 5)).await.unwrap();
    assert_eq!(db.runners().await.unwrap().len(), 1);
    assert_eq!(db.task(task.id).await.unwrap().task.runner.as_deref(), Some("box"));
}
