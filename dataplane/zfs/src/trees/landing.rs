//! The receiving end of a tree's streams.

use super::{LocalTree, marked, value};
use crate::{
    Error, Failure, Features, Intake, MODE_PROPERTY, Result, ResumeToken, SnapshotGuid, StreamMode,
    command::zfs,
    drr::Expected,
    replication::{Base, Snapshot, Step},
    target::Target,
    volumes::{abandon, create_filesystem, destroy, destroy_half_received, token_of},
};

/// Where a stream of a tree is received.
#[derive(Debug)]
pub(crate) struct Landing {
    tree: LocalTree,
    dataset: String,
    snapshot: String,
    expected: Expected,
    makes: Makes,
    /// What it becomes a clone of, where that has to be said.
    origin: Option<String>,
}

/// What is new when a stream has arrived, and goes again if it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    Filesystem,
    Snapshot,
}

impl LocalTree {
    /// Makes room at `path` for what a step says. Fails with [`Error::Exists`] where a new filesystem was to come
    /// and there is one, with [`Error::OtherTreeMode`] where it goes on in another mode, and with
    /// [`Error::TreeUnderWay`] while another stream lands there. `source` is the dataset's path at the sender.
    pub async fn receive(&self, path: &str, source: &str, step: &Step, mode: StreamMode) -> Result<Intake> {
        let dataset = self.dataset(path)?;
        let to = step.brings().ok_or_else(|| Error::InvalidName(path.to_owned()))?;
        let snapshot = marked(&dataset, '@', &to.name)?;
        if !mode.is_known_to(&self.features().streams()) {
            let version = self.features().version.clone();
            return Err(Error::Unsupported {
                version,
                what: "raw, large, compressed or embedded blocks in streams",
            });
        }
        let claim = self.claim(&dataset)?;
        let expected = |from| Expected { to: to.guid, from, mode };
        let mut origin = None;
        let (expected, makes, resumed) = match step {
            Step::Resume { .. } => {
                let (expected, makes, token) = self.resumed(&dataset, to.guid, mode).await?;
                (expected, makes, Some(token))
            }
            Step::Incremental { from, .. } => {
                // `zfs receive` would look for another filesystem that has the base, anywhere on the machine.
                value(&dataset, "guid").await?;
                self.check_mode(&dataset, mode).await?;
                check_absent(&snapshot).await?;
                (expected(Some(from.guid)), Makes::Snapshot, None)
            }
            Step::Clone { from, .. } => {
                self.check_new(path, &dataset).await?;
                origin = self.origin(from, source).await?;
                (expected(Some(from.guid)), Makes::Filesystem, None)
            }
            Step::Full { .. } | Step::MakePlace | Step::Abandon => {
                self.check_new(path, &dataset).await?;
                (expected(None), Makes::Filesystem, None)
            }
        };
        let landing = Landing { tree: self.clone(), dataset, snapshot, expected, makes, origin };
        Ok(Intake::new(Target::Tree(landing), resumed, claim))
    }

    /// Nothing may be where a new filesystem is to come; what it is to hang on may be missing for a tree's root alone.
    async fn check_new(&self, path: &str, dataset: &str) -> Result<()> {
        check_absent(dataset).await?;
        match dataset.rsplit_once('/') {
            Some((above, _)) if path.is_empty() && above.contains('/') => {
                create_filesystem(above, &["-p", "-o", "canmount=off"]).await
            }
            _ => Ok(()),
        }
    }

    /// Our copy of the base of what is to become a clone, where `zfs receive` can be told; else it looks for one
    /// itself, which it does for the stream of a clone alone: any other it would receive onto whatever filesystem
    /// has the base, anywhere on the machine.
    async fn origin(&self, from: &Base, source: &str) -> Result<Option<String>> {
        if !self.features().receive_excluding {
            if from.path != source {
                return Ok(None);
            }
            let version = self.features().version.clone();
            return Err(Error::Unsupported { version, what: "a stream received as a clone (OpenZFS)" });
        }
        let tree = self.list().await?;
        let holding = |snapshot: &&Snapshot| snapshot.guid == from.guid;
        let base = tree.datasets().iter().find_map(|copy| Some((copy, copy.snapshots.iter().find(holding)?)));
        let Some((copy, base)) = base else {
            let said = format!("no snapshot here has the GUID {} of {:?}", from.guid, from.name);
            return Err(Error::WrongBase(Failure { command: format!("receive from {source:?}"), said }));
        };
        marked(&self.dataset(&copy.path)?, '@', &base.name).map(Some)
    }

    async fn check_mode(&self, dataset: &str, planned: StreamMode) -> Result<()> {
        // Nothing but plain streams can have brought anything to a machine that knows no others.
        if !self.features().raw {
            return Ok(());
        }
        match value(dataset, MODE_PROPERTY).await?.parse() {
            Ok(found) if found != planned => {
                Err(Error::OtherTreeMode { dataset: dataset.to_owned(), planned, found })
            }
            _ => Ok(()),
        }
    }

    /// What the stream has to be that goes on with what is half received.
    async fn resumed(
        &self,
        dataset: &str,
        to: SnapshotGuid,
        mode: StreamMode,
    ) -> Result<(Expected, Makes, ResumeToken)> {
        let stale = || Error::StaleTreeToken { dataset: dataset.to_owned() };
        let token = token_of(dataset).await?.filter(|token| token.to == to).ok_or_else(stale)?;
        let snapshots = zfs(&["list", "-H", "-d", "1", "-t", "snapshot", "-o", "name", dataset]).await?;
        let makes = if snapshots.trim().is_empty() { Makes::Filesystem } else { Makes::Snapshot };
        Ok((Expected { to, from: token.from, mode }, makes, token))
    }
}

impl Landing {
    pub(crate) fn features(&self) -> &Features {
        self.tree.features()
    }

    pub(crate) fn dataset(&self) -> &str {
        &self.dataset
    }

    pub(crate) fn expected(&self) -> Expected {
        self.expected
    }

    pub(crate) fn snapshot(&self) -> String {
        self.snapshot.clone()
    }

    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.makes == Makes::Filesystem && self.features().receive_excluding {
            options.extend(["-o", "readonly=on"].map(str::to_owned));
        }
        if let Some(origin) = &self.origin {
            options.extend(["-o".to_owned(), format!("origin={origin}")]);
        }
        options
    }

    pub(crate) async fn guid(&self) -> Result<SnapshotGuid> {
        let said = value(&self.snapshot, "guid").await?;
        let guid = said.parse().map(SnapshotGuid);
        guid.map_err(|_| {
            Error::Unexpected(Failure { command: format!("zfs get guid {}", self.snapshot), said })
        })
    }

    /// Where `zfs receive` takes no properties, they are set afterwards.
    pub(crate) async fn settle(&self) -> Result<()> {
        if self.makes == Makes::Filesystem && !self.features().receive_excluding {
            zfs(&["set", "readonly=on", &self.dataset]).await?;
        }
        Ok(())
    }

    pub(crate) async fn undo(&self) -> Result<()> {
        if self.features().resume {
            abandon(&self.dataset).await?;
        }
        match self.makes {
            // One of this name that is none of ours stays.
            Makes::Snapshot => match self.guid().await {
                Ok(guid) if guid == self.expected.to => destroy(&self.snapshot).await,
                Ok(_) | Err(Error::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            },
            Makes::Filesystem => destroy_half_received(&self.dataset).await,
        }
    }
}

/// Nothing is received over what is there, nor taken for the rest of a stream that failed.
async fn check_absent(name: &str) -> Result<()> {
    match value(name, "guid").await {
        Ok(_) => {
            let said = "it is there already, and nothing is received over it".to_owned();
            Err(Error::Exists(Failure { command: format!("receive {name}"), said }))
        }
        Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
