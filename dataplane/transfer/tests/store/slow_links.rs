//! Transfers over a slow network.

use ds_proto::v1::Direction;
use tokio_util::sync::CancellationToken;

use crate::{
    path::Path,
    support::{MIB, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_shrinks_is_compressed_where_the_line_is_slow() {
    let world = World::start().await;
    let runner = world.runner().await;
    let first = runner.shared_volume(&world).await;
    let mut number = 0_u64;
    let text: Vec<u8> = std::iter::from_fn(|| {
        number += 1;
        Some(format!("step {number:9} loss 0.{:06}\n", number * 7919 % 1_000_003).into_bytes())
    })
    .flatten()
    .take(usize::try_from(192 * MIB).unwrap())
    .collect();
    let (what, guid) = runner.work(first, &[("log", &text)]).await;

    // So slow that ZFS is not what is waited for, also where other tests run beside this one.
    let path = Path::slow_to(world.address, 5 * MIB).await;
    let link = runner.endpoint.connect(path.address, world.store.peer().node).await.unwrap();
    let ticket = world.signer.sign(&world.ticket(&runner, Direction::Push, what));
    let (volume, snapshot, never) = (what.volume, what.snapshot, CancellationToken::new());
    let receipt = ds_transfer::push(&link, &runner.volumes, ticket, volume, snapshot, |_| {}, &never);
    let receipt = receipt.await.unwrap();
    let (_, receipt) = ds_transfer::receipt::verify(world.ca.certificate_pem(), &receipt).unwrap();
    assert_eq!(receipt.guid, guid.0);
    assert!(receipt.stream_bytes > 192 * MIB);
    let (passed, of) = (path.passed(), receipt.stream_bytes);
    println!("{passed} bytes passed for a stream of {of}");
    assert!(passed < of * 4 / 5, "{passed} bytes passed for a stream of {of}");
}
