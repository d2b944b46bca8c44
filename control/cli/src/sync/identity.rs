//! Which node this machine is.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ds_link::Identity;

use crate::roles::StateDir;

/// Below the state folder, in the order in which they are looked for.
const FOLDERS: [&str; 3] = ["sync/identity", "runner/identity", "store"];

/// The identity in a folder that is named, or below the state folder; or a new one, for a token.
pub(super) async fn find(state: &StateDir, named: Option<&Path>, token: Option<&str>) -> Result<Identity> {
    folder(state, named, token).await.map(|(identity, _)| identity)
}

/// The same, with the folder that it lies in.
pub(super) async fn folder(
    state: &StateDir,
    named: Option<&Path>,
    token: Option<&str>,
) -> Result<(Identity, PathBuf)> {
    if let Some(folder) = named {
        return match Identity::load(folder)? {
            Some(identity) => Ok((identity, folder.to_owned())),
            None => bail!("there is no identity in {}: give the folder of an identity.pem", folder.display()),
        };
    }
    for name in FOLDERS {
        let folder = state.of(name)?;
        if let Some(identity) = Identity::load(&folder)? {
            return Ok((identity, folder));
        }
    }
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        bail!(
            "this machine is no node of a hub: make it one with `ds runner create NAME`, and give the token that this prints in \
             DS_RUNNER_TOKEN; or name the folder of an identity with --identity (looked below {})",
            state.of("")?.display()
        );
    };
    let sync = state.of("sync")?;
    let identity = ds_runner::register(&sync, token).await?;
    Ok((identity, sync.join("identity")))
}
