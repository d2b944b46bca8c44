//! A tree of datasets under names of its owner's: what is kept in step with a tree elsewhere.
//!
//! What to do is decided by [`crate::replication::plan`], whose steps [`LocalTree::send`] and
//! [`LocalTree::receive`] carry out, one stream each. As with volumes, nothing is rolled back or received with
//! `-F`, and each call looks at the pool. What is received is made read-only and not mounted: a change, even of a
//! time of access, would be in the way of the next stream.

mod keeping;
mod landing;
mod sending;

use std::sync::Arc;

pub(crate) use self::landing::Landing;

use crate::{
    Error, Features, Result,
    command::{self, zfs},
    names::Layout,
    replication::{BadListing, Listing, Tree, properties},
    volumes::{Claims, abandon, create_filesystem, decode},
};

/// ZFS takes no longer name of a dataset or snapshot.
const LONGEST_NAME: usize = 255;

/// A tree on a pool of this machine, below the dataset that is its root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalTree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The full name of the dataset at its root, which need not exist yet.
    root: String,
    features: Features,
    receiving: Claims,
}

impl LocalTree {
    /// The tree at `root`, such as `tank/photos`. Fails where the name cannot be one, and where ZFS is missing.
    pub async fn open(root: &str) -> Result<Self> {
        // The rules for a node's root are those for the root of a tree.
        Layout::new(root, std::path::Path::new("/"))?;
        Ok(Self::within(root.to_owned(), Features::probe().await?, Claims::default()))
    }

    /// One of a node's, which shares its claims.
    pub(crate) fn within(root: String, features: Features, receiving: Claims) -> Self {
        Self(Arc::new(Inner { root, features, receiving }))
    }

    /// The full name of the dataset at its root.
    pub fn root(&self) -> &str {
        &self.0.root
    }

    /// What this machine's ZFS can do.
    pub fn features(&self) -> &Features {
        &self.0.features
    }

    /// All of it, from one listing. A root that does not exist is an empty tree; nor is there a filesystem whose
    /// first stream is on its way.
    pub async fn list(&self) -> Result<Tree> {
        let root = &self.0.root;
        let arguments = ["get", "-Hp", "-r", "-o", "name,property,value", properties(&self.0.features), root];
        let mut listing = Listing::new(root, |_| None);
        let mut bad: Option<BadListing> = None;
        let mut take = |line: &str| {
            if bad.is_none() {
                bad = listing.push(line).err();
            }
        };
        match command::zfs_lines(&arguments, &mut take).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        if let Some(bad) = bad {
            return Err(bad.into());
        }
        let mut tree = listing.finish()?;
        tree.retain(|dataset| {
            let arriving = |name: &str| self.0.receiving.is_claimed(name);
            !dataset.snapshots.is_empty() || !self.dataset(&dataset.path).is_ok_and(|name| arriving(&name))
        });
        for half in tree.half_received_mut() {
            half.guid = decode(&half.token).await?.map(|token| token.to);
        }
        Ok(tree)
    }

    /// Makes an empty filesystem that is not mounted, unless there is one.
    pub async fn make_place(&self, path: &str) -> Result<()> {
        let mut arguments = vec!["-o", "canmount=off"];
        if path.is_empty() {
            arguments.push("-p");
        }
        create_filesystem(&self.dataset(path)?, &arguments).await
    }

    /// Gives up what is half received there; nothing is no error.
    pub async fn abandon(&self, path: &str) -> Result<()> {
        if !self.0.features.resume {
            return Ok(());
        }
        let dataset = self.dataset(path)?;
        let _claim = self.claim(&dataset)?;
        abandon(&dataset).await
    }

    /// The full name of the dataset at a path, which may come from another machine.
    fn dataset(&self, path: &str) -> Result<String> {
        let root = &self.0.root;
        let name = if path.is_empty() { root.clone() } else { format!("{root}/{path}") };
        let sound = path.is_empty() || path.split('/').all(is_component);
        if sound && name.len() <= LONGEST_NAME { Ok(name) } else { Err(Error::InvalidName(path.to_owned())) }
    }

    fn claim(&self, dataset: &str) -> Result<crate::volumes::Claim> {
        let claim = self.0.receiving.claim_filesystem(dataset);
        claim.ok_or_else(|| Error::TreeUnderWay { dataset: dataset.to_owned() })
    }
}

/// `<dataset>@<name>`, or with another mark.
fn marked(dataset: &str, mark: char, name: &str) -> Result<String> {
    let full = format!("{dataset}{mark}{name}");
    if is_component(name) && full.len() <= LONGEST_NAME {
        Ok(full)
    } else {
        Err(Error::InvalidName(name.to_owned()))
    }
}

/// Whether a text is one component of a name to ZFS, and no option to its programs.
fn is_component(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.: ".contains(c);
    !text.is_empty() && !text.starts_with('-') && text != "." && text != ".." && text.chars().all(fits)
}

async fn value(dataset: &str, property: &str) -> Result<String> {
    Ok(zfs(&["get", "-Hp", "-o", "value", property, dataset]).await?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_machines_stay_within_the_tree() {
        for good in ["a", "home dirs", "2024-01", "auto_2024-01-02_03:04", ".zfs-like"] {
            assert!(is_component(good), "{good}");
        }
        for wrong in ["", "..", ".", "-r", "a@b", "a#b", "a/b", "a%b", "a\tb", "ü", "a,b"] {
            assert!(!is_component(wrong), "{wrong}");
        }
        assert!(marked("tank/a", '@', &"x".repeat(249)).is_err());
    }
}
