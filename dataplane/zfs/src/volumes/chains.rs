//! How a filesystem's snapshots came here and may go on: its mode and its encryption.

use std::collections::HashMap;

use ds_domain::ids::VolumeId;

use super::Volumes;
use crate::{
    Encryption, Error, Have, MODE_PROPERTY, Result, SendPlan, Snapshot, StreamKind, StreamMode,
    command::{self, zfs},
    names::Place,
};

/// What a filesystem is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// As it was received; `None` for one that was made here, which goes in any mode.
    pub(super) mode: Option<StreamMode>,
    /// The dataset whose key it uses, if it is encrypted.
    encryption_root: Option<String>,
}

impl Chain {
    fn encryption(&self) -> Encryption {
        if self.encryption_root.is_some() { Encryption::On } else { Encryption::Off }
    }
}

impl Volumes {
    /// How the volume has to be sent from here to be received on what came of it elsewhere: the mode in which it came
    /// here itself, if it did, and whether it is encrypted. For [`StreamMode::negotiate`]. A full stream begins a chain
    /// of its own and need not keep to that mode.
    pub async fn sendable(&self, plan: &SendPlan) -> Result<(Encryption, Option<StreamMode>)> {
        if !self.knows_modes() {
            return Ok((Encryption::Off, None));
        }
        let topology = self.topology_of(plan.volume).await?;
        let (volume, snapshot) = (plan.volume, plan.snapshot);
        let here = topology.holding(volume, snapshot).ok_or(Error::SnapshotMissing { volume, snapshot })?;
        let chain = self.chain(&here.name).await?;
        Ok((chain.encryption(), chain.mode))
    }

    /// What a sender has to know of the volume's snapshots here.
    pub async fn haves(&self, volume: VolumeId) -> Result<Vec<Have>> {
        let modes = self.modes(volume).await?;
        let ours = self.snapshots(volume).await?;
        let have = |ours: &Snapshot| Have { mode: modes.get(&ours.filesystem).copied(), ..ours.into() };
        Ok(ours.iter().map(have).collect())
    }

    /// The modes in which the volume's filesystems came here, by their names.
    async fn modes(&self, volume: VolumeId) -> Result<HashMap<String, StreamMode>> {
        let mut modes = HashMap::new();
        if !self.knows_modes() {
            return Ok(modes);
        }
        let layout = &self.inner.layout;
        let datasets = [&self.name(Place::Main(volume)), &layout.branches(volume), &layout.tasks()];
        let mut arguments = vec!["get", "-Hp", "-r", "-t", "filesystem", "-o", "name,value", MODE_PROPERTY];
        arguments.extend(datasets.map(String::as_str));
        let mut note = |line: &str| {
            let mode =
                line.split_once('\t').and_then(|(name, mode)| Some((name.to_owned(), mode.parse().ok()?)));
            modes.extend(mode);
        };
        match command::zfs_lines(&arguments, &mut note).await {
            Ok(()) | Err(Error::NotFound(_)) => Ok(modes),
            Err(error) => Err(error),
        }
    }

    /// Nothing but plain streams can have brought anything to a machine that knows no others.
    pub(super) async fn chain(&self, filesystem: &str) -> Result<Chain> {
        if !self.knows_modes() {
            return Ok(Chain::default());
        }
        let wanted = format!("{MODE_PROPERTY},encryptionroot");
        let listing = zfs(&["get", "-Hp", "-o", "property,value", &wanted, filesystem]).await?;
        let mut chain = Chain::default();
        for (property, value) in listing.lines().filter_map(|line| line.split_once('\t')) {
            match property {
                MODE_PROPERTY => chain.mode = value.parse().ok(),
                "encryptionroot" if value != "-" => chain.encryption_root = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(chain)
    }

    pub(super) fn knows_modes(&self) -> bool {
        self.features().raw
    }

    /// Whether `filesystem` may be sent as planned.
    pub(super) async fn check_sending(&self, plan: &SendPlan, filesystem: &str) -> Result<()> {
        self.check_known(plan.mode)?;
        let chain = self.chain(filesystem).await?;
        if plan.kind != StreamKind::Full {
            check_mode(plan, &chain)?;
        }
        let safe = plan.mode.check_decryption(chain.encryption(), self.features());
        safe.map_err(|source| Error::NoMode { volume: plan.volume, source })
    }

    /// Whether the planned stream may land on `filesystem`, or beside it as a clone of a snapshot there.
    pub(super) async fn check_receiving(&self, plan: &SendPlan, filesystem: &str) -> Result<()> {
        let chain = self.chain(filesystem).await?;
        check_mode(plan, &chain)?;
        match chain.encryption_root {
            Some(root) if plan.mode == StreamMode::Raw && !self.is_root_within(plan.volume, &root) => {
                Err(Error::OtherKey { volume: plan.volume, root })
            }
            _ => Ok(()),
        }
    }

    /// Whether this machine's ZFS can send or receive so at all.
    pub(super) fn check_known(&self, mode: StreamMode) -> Result<()> {
        if mode.is_known_to(&self.features().streams()) {
            return Ok(());
        }
        let version = self.features().version.clone();
        Err(Error::Unsupported {
            version,
            what: "raw, large, compressed or embedded blocks in streams (OpenZFS 0.8)",
        })
    }

    /// What is received raw is a root of its own, and stays one of the volume's filesystems whichever of them is promoted; after
    /// `zfs change-key -i` it is not.
    fn is_root_within(&self, volume: VolumeId, root: &str) -> bool {
        self.inner.layout.parse(root).is_some_and(|place| place.volume() == Some(volume))
    }
}

fn check_mode(plan: &SendPlan, chain: &Chain) -> Result<()> {
    match chain.mode {
        Some(found) if found != plan.mode => {
            Err(Error::OtherMode { volume: plan.volume, planned: plan.mode, found })
        }
        _ => Ok(()),
    }
}
