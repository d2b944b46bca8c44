//! Many snapshots: one listing, whatever their number.

use std::{collections::HashSet, time::Instant};

use crate::{
    fixture::pair_of_its_own,
    support::{snapshot, volume, zfs},
};

const VOLUMES: usize = 20;
const EACH: usize = 100;

#[tokio::test]
async fn two_thousand_snapshots() {
    let Some(pair) = pair_of_its_own("2,000 snapshots on 20 volumes, planned over from one listing").await
    else {
        return;
    };
    let side = &pair.from;
    for _ in 0..VOLUMES {
        side.volumes.create(volume(), snapshot()).await.unwrap();
    }
    // All volumes at once, since a process for each snapshot would take minutes.
    for _ in 1..EACH {
        zfs(&["snapshot", "-r", &format!("{}@{}", side.pool.dataset("v"), snapshot().to_hex())]);
    }
    let began = Instant::now();
    let all = side.volumes.all_snapshots().await.unwrap();
    println!("listed {} snapshots in {} ms", all.len(), began.elapsed().as_millis());
    assert_eq!(all.len(), VOLUMES * EACH);
    let guids: HashSet<_> = all.iter().map(|(_, snapshot)| snapshot.guid).collect();
    assert_eq!(guids.len(), all.len(), "snapshots of one command differ between filesystems");
    for volume in side.volumes.volumes().await.unwrap() {
        let line: Vec<_> =
            all.iter().filter(|(of, _)| *of == volume).map(|(_, found)| found.created_txg).collect();
        assert!(line.len() == EACH && line.is_sorted(), "oldest first");
    }
}
