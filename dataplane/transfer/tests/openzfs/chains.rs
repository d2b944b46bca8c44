//! In which mode a chain goes on, and from what.

use ds_domain::ids::VolumeId;
use ds_transfer::ErrorKind;
use ds_zfs::{MODE_PROPERTY, Volumes};
use uuid::Uuid;

use crate::{
    fixture::{Line, on_openzfs, property_of, zfs},
    support::{MIB, Pool, Runner, What, World, new_snapshot},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_on_as_it_began() {
    if !on_openzfs(
        "flags of a new chain, of an increment, of a task's clone that comes back, and of a plain chain",
    ) {
        return;
    }
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let line = Line::of(&runner.pool, "runner", first);
    assert_eq!(property_of(line.name(), MODE_PROPERTY), "Lce");
    let (second, _) = Line::of(&world.pool, "store", first).grow(first, "a", MIB);
    world.pull(&runner, second).await.unwrap();
    let (third, _) = runner.work(second, &[("b", b"three")]).await;
    world.push(&runner, third).await.unwrap();
    let branch = world.pool.root(&format!("store/b/{}/{}", third.volume.to_hex(), third.snapshot.to_hex()));
    assert_eq!(property_of(&branch, MODE_PROPERTY), "Lce");

    // What once came plain goes on plain.
    zfs(&["set", &format!("{MODE_PROPERTY}=plain"), line.name()]);
    let (fourth, _) = Line::of(&world.pool, "store", first).grow(second, "c", MIB);
    let receipt = world.pull(&runner, fourth).await.unwrap();
    assert!(receipt.stream_bytes < 2 * MIB, "{}", receipt.stream_bytes);
    assert_eq!(property_of(line.name(), MODE_PROPERTY), "plain");

    // The store's main line has bookmarks by now, and is replaced all the same.
    let (fifth, _) = runner.work(fourth, &[("d", b"five")]).await;
    world.push(&runner, fifth).await.unwrap();
    world.client().advance(fifth.volume, fifth.snapshot).await.unwrap();
    assert_eq!(property_of(Line::of(&world.pool, "store", first).name(), MODE_PROPERTY), "plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_cannot_go_on_is_said_or_begun_anew() {
    if !on_openzfs("two ends whose chains differ: a push says so, a pull sends all") {
        return;
    }
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (at_store, at_runner) =
        (Line::of(&world.pool, "store", first), Line::of(&runner.pool, "runner", first));
    zfs(&["set", &format!("{MODE_PROPERTY}=plain"), at_store.name()]);
    let (pushed, _) = at_runner.grow(first, "a", MIB);
    let error = world.push(&runner, pushed).await.unwrap_err();
    let said = format!("{error:?}");
    assert!(said.contains("Diverged") && error.kind() == ErrorKind::Failed, "{said}");

    let (pulled, _) = at_store.grow(first, "b", 2 * MIB);
    let receipt = world.pull(&runner, pulled).await.unwrap();
    assert!(receipt.stream_bytes > 2 * MIB);
    let branch =
        runner.pool.root(&format!("runner/b/{}/{}", pulled.volume.to_hex(), pulled.snapshot.to_hex()));
    assert_eq!(property_of(&branch, MODE_PROPERTY), "plain");
}

/// A runner whose root is encrypted.
async fn sealed(world: &World) -> Runner {
    let runner = world.runner().await;
    let key = runner.pool.folder().join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    let location = format!("keylocation=file://{}", key.display());
    let root = runner.pool.root("sealed");
    zfs(&["create", "-o", "encryption=aes-128-gcm", "-o", "keyformat=raw", "-o", &location, &root]);
    let volumes = Volumes::open(&root, &runner.pool.folder().join("sealed")).await.unwrap();
    Runner { volumes, ..runner }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_arrives_raw() {
    if !on_openzfs(
        "an encrypted volume is pushed and grows at a store that has no key, and goes on to a third node",
    ) {
        return;
    }
    let world = World::start().await;
    let (runner, reader) = (sealed(&world).await, world.runner().await);
    let first = What { volume: VolumeId(Uuid::new_v4()), snapshot: new_snapshot(), base: None };
    runner.volumes.create(first.volume, first.snapshot).await.unwrap();
    world.push(&runner, first).await.unwrap();
    let stored = Line::of(&world.pool, "store", first);
    let (second, _) = Line::of(&runner.pool, "sealed", first).grow(first, "secret", 2 * MIB);
    let (_, receipt) = world.push(&runner, second).await.unwrap();
    assert!(receipt.stream_bytes > 2 * MIB);
    world.pull(&reader, first).await.unwrap();
    world.pull(&reader, second).await.unwrap();
    let read = Line::of(&reader.pool, "runner", first);
    for name in [stored.name(), read.name()] {
        assert_eq!(property_of(name, MODE_PROPERTY), "raw");
        assert_eq!(property_of(name, "keystatus"), "unavailable");
        assert_eq!(property_of(name, "encryptionroot"), name);
    }
    assert!(
        zfs(&["list", "-H", "-t", "snapshot", "-o", "name", read.name()]).contains(&second.snapshot.to_hex())
    );
}

/// The snapshot is destroyed at this node, which remembers it.
async fn forget(pool: &Pool, root: &str, what: What) {
    let line = Line::of(pool, root, what);
    line.destroy(what.snapshot).await;
    assert_eq!(property_of(&line.at(what.snapshot).replace('@', "#"), "type"), "bookmark");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_is_base_enough() {
    if !on_openzfs("pull and push of an increment whose base is but a bookmark at the sender") {
        return;
    }
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let (at_store, at_runner) =
        (Line::of(&world.pool, "store", first), Line::of(&runner.pool, "runner", first));
    let (second, _) = at_store.grow(first, "large", 6 * MIB);
    world.pull(&runner, second).await.unwrap();
    let (third, _) = at_store.grow(second, "small", MIB);
    forget(&world.pool, "store", second).await;
    let receipt = world.pull(&runner, third).await.unwrap();
    assert!(receipt.stream_bytes < 2 * MIB, "{}", receipt.stream_bytes);

    let (fourth, _) = at_runner.grow(third, "back", MIB);
    world.push(&runner, fourth).await.unwrap();
    let (fifth, _) = at_runner.grow(fourth, "again", MIB);
    forget(&runner.pool, "runner", fourth).await;
    let (_, receipt) = world.push(&runner, fifth).await.unwrap();
    assert!(receipt.stream_bytes < 2 * MIB, "{}", receipt.stream_bytes);
}
