//! Where a stream is received, and what has to come of it.

use crate::{
    Features, Result, ResumeToken, SendPlan, SnapshotGuid, Volumes, drr::Expected, names::snapshot_name,
    trees::Landing, volumes::token_of,
};

/// A volume's filesystem, or a dataset of a tree.
#[derive(Debug)]
pub(crate) enum Target {
    /// A volume's.
    Volume { volumes: Volumes, plan: SendPlan, filesystem: String },
    /// A tree's.
    Tree(Landing),
}

impl Target {
    pub(crate) fn volume(volumes: &Volumes, plan: &SendPlan, filesystem: String) -> Self {
        Self::Volume { volumes: volumes.clone(), plan: *plan, filesystem }
    }

    pub(crate) fn features(&self) -> &Features {
        match self {
            Self::Volume { volumes, .. } => volumes.features(),
            Self::Tree(landing) => landing.features(),
        }
    }

    /// What the stream has to say of itself.
    pub(crate) fn expected(&self) -> Expected {
        match self {
            Self::Volume { plan, .. } => plan.into(),
            Self::Tree(landing) => landing.expected(),
        }
    }

    /// The snapshot, for people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Volume { plan, .. } => plan.snapshot.to_string(),
            Self::Tree(landing) => landing.snapshot(),
        }
    }

    /// The filesystem's full name.
    pub(crate) fn filesystem(&self) -> &str {
        match self {
            Self::Volume { filesystem, .. } => filesystem,
            Self::Tree(landing) => landing.dataset(),
        }
    }

    /// The snapshot's full name.
    pub(crate) fn snapshot(&self) -> String {
        match self {
            Self::Volume { plan, filesystem, .. } => snapshot_name(filesystem, plan.snapshot),
            Self::Tree(landing) => landing.snapshot(),
        }
    }

    /// Further arguments of `zfs receive`.
    pub(crate) fn options(&self) -> Vec<String> {
        match self {
            Self::Volume { .. } => Vec::new(),
            Self::Tree(landing) => landing.options(),
        }
    }

    /// The GUID of what arrived.
    pub(crate) async fn guid(&self) -> Result<SnapshotGuid> {
        match self {
            Self::Volume { volumes, plan, filesystem } => volumes.guid(filesystem, plan.snapshot).await,
            Self::Tree(landing) => landing.guid().await,
        }
    }

    /// What is left to do when it has arrived.
    pub(crate) async fn settle(&self) -> Result<()> {
        match self {
            Self::Volume { .. } => Ok(()),
            Self::Tree(landing) => landing.settle().await,
        }
    }

    /// Destroys what a receive that failed or was ended brought.
    pub(crate) async fn undo(&self) -> Result<()> {
        match self {
            Self::Volume { volumes, plan, filesystem } => volumes.undo_receive(plan, filesystem).await,
            Self::Tree(landing) => landing.undo().await,
        }
    }

    /// How to go on with what was kept of it.
    pub(crate) async fn token(&self) -> Result<Option<ResumeToken>> {
        if self.features().resume { token_of(self.filesystem()).await } else { Ok(None) }
    }
}
