//! The sending end of a tree's streams.

use super::{LocalTree, marked, value};
use crate::{
    Error, Failure, Result, Sending, SnapshotGuid, StreamMode,
    command::zfs,
    replication::{Mark, Point, Step},
    stream,
    volumes::decode,
};

impl LocalTree {
    /// Starts sending what a step of the dataset at `path` says. Fails with [`Error::WrongBase`] where the snapshot
    /// is another by now, with [`Error::StaleTreeToken`] where a token leads elsewhere, and with
    /// [`Error::Unsupported`] where this ZFS does not know the mode.
    pub async fn send(&self, path: &str, step: &Step, mode: StreamMode) -> Result<Sending> {
        let arguments = self.send_arguments(path, step, mode).await?;
        stream::send(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The size in bytes of a step's stream, where ZFS can tell before it is sent. (zfs-fuse can only for a full one.)
    pub async fn estimate(&self, path: &str, step: &Step, mode: StreamMode) -> Result<Option<u64>> {
        let mut arguments = self.send_arguments(path, step, mode).await?;
        if self.features().dry_run {
            arguments.insert(1, "-nP".to_owned());
            let answer = zfs(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            return Ok(answer.lines().find_map(|line| line.strip_prefix("size")?.trim().parse().ok()));
        }
        match (step, arguments.last()) {
            (Step::Full { .. }, Some(snapshot)) => Ok(value(snapshot, "referenced").await?.parse().ok()),
            _ => Ok(None),
        }
    }

    async fn send_arguments(&self, path: &str, step: &Step, mode: StreamMode) -> Result<Vec<String>> {
        let dataset = self.dataset(path)?;
        if let Step::Resume { token, to } = step {
            let snapshot = marked(&dataset, '@', &to.name)?;
            // Whoever gave the token must not choose what is sent.
            return match decode(token).await? {
                Some(decoded) if decoded.to == to.guid && decoded.to_name == snapshot => {
                    Ok(["send", "-t", token].map(str::to_owned).to_vec())
                }
                _ => Err(Error::StaleTreeToken { dataset }),
            };
        }
        if !mode.is_known_to(&self.features().streams()) {
            let version = self.features().version.clone();
            return Err(Error::Unsupported {
                version,
                what: "raw, large, compressed or embedded blocks in streams",
            });
        }
        let to = step.brings().ok_or_else(|| no_stream(&dataset))?;
        let snapshot = self.checked(&dataset, to).await?;
        let mut arguments = vec!["send".to_owned()];
        arguments.extend(mode.arguments().map(str::to_owned));
        if let Step::Incremental { from, .. } | Step::Clone { from, .. } = step {
            let mark = if from.mark == Mark::Bookmark { '#' } else { '@' };
            arguments.extend(["-i".to_owned(), marked(&self.dataset(&from.path)?, mark, &from.name)?]);
        }
        arguments.push(snapshot);
        Ok(arguments)
    }

    /// The full name of a snapshot that is still the one that was listed.
    async fn checked(&self, dataset: &str, to: &Point) -> Result<String> {
        let snapshot = marked(dataset, '@', &to.name)?;
        let guid = value(&snapshot, "guid").await?;
        if guid.parse().ok().map(SnapshotGuid) == Some(to.guid) {
            return Ok(snapshot);
        }
        let said = format!("its GUID is {guid} now, not {}", to.guid);
        Err(Error::WrongBase(Failure { command: format!("send {snapshot}"), said }))
    }
}

fn no_stream(dataset: &str) -> Error {
    Error::Failed(Failure { command: format!("send {dataset}"), said: "the step brings no snapshot".into() })
}
