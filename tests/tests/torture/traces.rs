//! What must not be left behind.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use ds_domain::ids::VolumeId;

use ds_tests::{Cloud, cloud::Node};

use crate::point::PATIENCE;

/// After a transfer that was acknowledged, and an advance, a volume is one filesystem on each pool that has it.
pub(crate) async fn one_line_each(cloud: &Cloud, volume: VolumeId) -> Result<()> {
    for node in cloud.nodes() {
        let strays: Vec<_> = datasets(node)?
            .into_iter()
            .filter(|name| {
                let branch = name.contains(&format!("/b/{}/", volume.to_hex()));
                branch || ["/t/", "/r/"].iter().any(|folder| name.contains(folder))
            })
            .collect();
        ensure!(strays.is_empty(), "left behind: {strays:?}");
        ensure!(node.volumes.partials().await?.is_empty(), "half received on {}", node.pool.name());
    }
    Ok(())
}

/// Waits until nothing runs or lies here that a transfer needed: processes, claims, mounts.
pub(crate) async fn at_rest(cloud: &Cloud) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = unrest(cloud)?;
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("after {} s there is still {left:?}", PATIENCE.as_secs());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Once every volume is dropped, each pool is as it was at first.
pub(crate) fn empty(cloud: &Cloud) -> Result<()> {
    for node in cloud.nodes() {
        let left: Vec<_> = datasets(node)?.into_iter().filter(|name| name.matches('/').count() > 2).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}

fn unrest(cloud: &Cloud) -> Result<Vec<String>> {
    let mut left: Vec<String> = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let Ok(line) = std::fs::read(process?.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.starts_with("zfs ") && cloud.nodes().iter().any(|node| line.contains(node.pool.name())) {
            left.push(line);
        }
    }
    for claim in std::fs::read_dir(cloud.stored.folder().join("incoming"))? {
        left.push(claim?.path().display().to_string());
    }
    let folder = cloud.folder().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
    Ok(left)
}

fn datasets(node: &Node) -> Result<Vec<String>> {
    node.pool.list("data")
}
