//! Peers with a good certificate and bad manners, and strangers without any, against a store that is a process of its own: each
//! is refused with a reason or waits, what it costs the store is bounded, and an honest node's transfers go on meanwhile.
//!
//! What single frames and chunks can do wrong is tested in `ds-transfer`, in one process; here it is about the store as a whole.

mod attacker;
mod honest;
mod knocks;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ds_link::{Endpoint, Role, Transport, Transports};
use ds_proto::v1::AbortCode;
use ds_tests::{Cloud, cloud::What, mover::Way};
use tokio::task::JoinSet;

use self::{
    attacker::{Attacker, WINDOW_CHUNKS},
    knocks::{Hears, Knocks},
};

const MIB: u64 = 1 << 20;

/// What a store may take beside the windows of its transfers: buffers of pipes and sockets, and what the allocator keeps.
const SLACK: u64 = 128 * MIB;

const WINDOW: u64 = 64 * MIB;

/// Connections that are begun and go no further.
const KNOCKS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_break_the_rules_are_cut_off() -> Result<()> {
    let cloud = Cloud::start(0).await?;
    let attacker = Attacker::create(&cloud).await?;
    let attack = async {
        let noise = Bytes::from(vec![7; ds_wire::CHUNK_BYTES]);

        let mut endless = attacker.push(&cloud).await?;
        for index in 0..4 * WINDOW_CHUNKS {
            endless.chunk(index, index, &noise).await;
        }
        endless.refused_as(&[AbortCode::Corrupt], "an endless stream").await?;

        let mut backwards = attacker.push(&cloud).await?;
        for index in (1..WINDOW_CHUNKS).rev() {
            backwards.chunk(index, index, &noise).await;
        }
        // All of it waits for a first chunk, which is none of ZFS's.
        backwards.chunk(0, 0, &noise).await;
        backwards.refused_as(&[AbortCode::Corrupt, AbortCode::Failed], "backwards").await?;

        let mut misplaced = attacker.push(&cloud).await?;
        misplaced.chunk(1, 2, &noise).await;
        misplaced.refused_as(&[AbortCode::Corrupt], "a chunk at another's place").await?;

        let mut huge = attacker.push(&cloud).await?;
        huge.control.send.send_bytes(Bytes::from_static(&[0xff, 0xff, 0xff, 0xfe])).await?;
        huge.refused_as(&[AbortCode::Corrupt], "a message of 4 GiB").await
    };
    let seen = honest::beside(&cloud, attack).await?;
    ensure!(seen.grown < WINDOW + honest::COST + SLACK, "the store took {seen}");
    println!("{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_good_for_one_node_and_once() -> Result<()> {
    const REPLAYS: u32 = 200;
    let cloud = Cloud::start(0).await?;
    let (attacker, other) = (Attacker::create(&cloud).await?, Attacker::create(&cloud).await?);
    let attack = async {
        let ticket = cloud.ticket(attacker.id, Way::Push, attacker.what())?;
        let stolen = other.push_with(&other.link(&cloud).await?, ticket.clone()).await?;
        stolen.refused_at_once("is for node").await?;
        let link = attacker.link(&cloud).await?;
        let mut first = attacker.push_with(&link, ticket.clone()).await?;
        first.let_in().await?;
        // A replay has to fail while the first is under way, and after it.
        attacker.push_with(&link, ticket.clone()).await?.refused_at_once("used already").await?;
        drop(first);
        for _ in 0..REPLAYS {
            attacker.push_with(&link, ticket.clone()).await?.refused_at_once("used already").await?;
        }
        Ok(())
    };
    let seen = honest::beside(&cloud, attack).await?;
    ensure!(seen.grown < honest::COST + SLACK, "the store took {seen}");
    println!("{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_cost_a_window_each() -> Result<()> {
    const READERS: u64 = 3;
    let cloud = Cloud::start(0).await?;
    let large = honest::push(&cloud, 2 * WINDOW).await?;
    let attack = async {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let reader = Attacker::create(&cloud).await?;
            let what = What { base: None, ..large };
            readers.push((reader.pull(&cloud, what).await?, reader));
        }
        // For as long as the honest node moves some more.
        tokio::time::sleep(Duration::from_secs(8)).await;
        Ok(())
    };
    let seen = honest::beside(&cloud, attack).await?;
    ensure!(seen.transfers > 1, "nothing else moved meanwhile: {seen}");
    ensure!(seen.grown < READERS * WINDOW + honest::COST + SLACK, "the store took {seen}");
    println!("{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_that_say_nothing_keep_nobody_out() -> Result<()> {
    let cloud = Cloud::start(0).await?;
    let attack = async {
        let _standing = knocks::silent_connections(cloud.address, KNOCKS).await?;
        // For as long as the honest node moves some more.
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok(())
    };
    let seen = honest::beside(&cloud, attack).await?;
    ensure!(seen.transfers > 1, "nothing else moved meanwhile: {seen}");
    ensure!(seen.grown < honest::COST + SLACK, "the store took {seen}");
    println!("{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_that_only_knock_keep_nobody_out() -> Result<()> {
    let cloud = Cloud::start(0).await?;
    for hears in [Hears::Nothing, Hears::Retries] {
        let attack = async {
            let path = Knocks::to(cloud.address, hears).await?;
            let stranger = cloud.ca.issue(Role::Runner, ds_domain::ids::NodeId(uuid::Uuid::new_v4()))?;
            let endpoint = Endpoint::client(&stranger)?.over(Transports::Only(Transport::Quic));
            let mut knocks = JoinSet::new();
            for _ in 0..KNOCKS {
                let (endpoint, address, store) = (endpoint.clone(), path.address(), cloud.stored.id);
                knocks.spawn(async move { endpoint.connect(address, store).await.is_ok() });
            }
            while let Some(linked) = knocks.join_next().await {
                ensure!(!linked?, "a node that hears nothing cannot be linked");
            }
            ensure!(path.carried() >= KNOCKS as u64, "only {} datagrams came", path.carried());
            Ok(())
        };
        let seen = honest::beside(&cloud, attack).await.with_context(|| format!("{hears:?}"))?;
        ensure!(seen.grown < honest::COST + SLACK, "the store took {seen}");
        println!("{hears:?}: {seen}");
    }
    Ok(())
}
