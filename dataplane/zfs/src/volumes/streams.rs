//! Sending and receiving snapshots.

use std::time::Duration;

use super::{Volumes, create_filesystem, destroy, destroy_tree, ignore_missing};
use crate::{
    Base, Error, Failure, Intake, Result, SendPlan, Sending, StreamKind,
    command::zfs,
    names::{Place, snapshot_name},
    stream,
    target::Target,
    topology::{Filesystem, Topology},
};

/// How often it is looked whether ZFS let go of what was half received, and for how long.
const LET_GO_TRIES: u32 = 100;
const LET_GO_PAUSE: Duration = Duration::from_millis(100);

impl Volumes {
    /// Starts sending what the plan says. Fails with [`Error::WrongBase`] where an advance has moved the base since: plan again;
    /// with [`Error::OtherMode`] where the volume was received in another mode; and with [`Error::NoMode`] where it is encrypted and
    /// this ZFS would damage it.
    pub async fn send(&self, plan: &SendPlan) -> Result<Sending> {
        let _lock = self.lock(plan.volume).await;
        let topology = self.topology_of(plan.volume).await?;
        let arguments = self.send_arguments(&topology, plan).await?;
        stream::send(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The size in bytes of the planned stream, where ZFS can tell before it is sent. (zfs-fuse can only for a full one.)
    pub async fn estimate(&self, plan: &SendPlan) -> Result<Option<u64>> {
        let topology = self.topology_of(plan.volume).await?;
        let mut arguments = self.send_arguments(&topology, plan).await?;
        if self.features().dry_run {
            arguments.splice(1..1, ["-nP".to_owned()]);
            let answer = zfs(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            return Ok(answer.lines().find_map(|line| line.strip_prefix("size")?.trim().parse().ok()));
        }
        match (plan.kind, arguments.last()) {
            (StreamKind::Full, Some(snapshot)) => {
                Ok(self.property(snapshot, "referenced").await?.parse().ok())
            }
            _ => Ok(None),
        }
    }

    /// Makes room for what the plan says: an incremental stream goes onto the filesystem whose tip is the base, a clone stream
    /// into a branch of its own, a full stream into the main line if the volume has none here and else into a branch.
    ///
    /// Fails with [`Error::AlreadyHere`], with [`Error::WrongBase`] where the base is not here or no tip any more, with
    /// [`Error::OtherMode`] and [`Error::OtherKey`] where it cannot go on so, and with [`Error::UnderWay`] while the same
    /// snapshot, or another into the same filesystem, is being received.
    pub async fn receive(&self, plan: &SendPlan) -> Result<Intake> {
        let _lock = self.lock(plan.volume).await;
        let topology = self.topology_of(plan.volume).await?;
        let (volume, snapshot) = (plan.volume, plan.snapshot);
        if topology.holding(volume, snapshot).is_some() {
            return Err(Error::AlreadyHere { volume, snapshot });
        }
        self.check_known(plan.mode)?;
        let (filesystem, room) = match landing(&topology, plan)? {
            Landing::Tip(filesystem) => (filesystem, None),
            Landing::New(place) => (self.name(place), Some(place)),
        };
        if let Some(continued) = continued(&topology, plan) {
            self.check_receiving(plan, continued).await?;
        }
        // Before anything is touched: what lies there may be another receive's.
        let claim = self.inner.receiving.claim(&filesystem, snapshot);
        let claim = claim.ok_or(Error::UnderWay { volume, snapshot })?;
        match room {
            Some(place) => self.make_room(place).await?,
            // What was half received on it would be in the way.
            None => self.drop_partial_on(&filesystem).await?,
        }
        Ok(Intake::new(Target::volume(self, plan, filesystem), None, claim))
    }

    /// Clears what a crash left where a new filesystem is to be received, and makes its folder. [`Error::Busy`] if it is no leftover.
    async fn make_room(&self, place: Place) -> Result<()> {
        let name = self.name(place);
        if let Place::Branch(volume, _) = place {
            create_filesystem(&self.inner.layout.branches(volume), &[]).await?;
        }
        self.unmount(&name).await?;
        ignore_missing(zfs(&["destroy", &name]).await)
    }

    /// Destroys what a receive that failed or was ended brought: its snapshot, or the filesystem that was to have it.
    pub(crate) async fn undo_receive(&self, plan: &SendPlan, filesystem: &str) -> Result<()> {
        self.drop_partial_on(filesystem).await?;
        if let StreamKind::Incremental(_) = plan.kind {
            // Whatever a stream may have done to the properties that matter: a main line is never mounted.
            self.detach(filesystem).await?;
            return destroy(&snapshot_name(filesystem, plan.snapshot)).await;
        }
        destroy_half_received(filesystem).await
    }

    pub(super) async fn send_arguments(&self, topology: &Topology, plan: &SendPlan) -> Result<Vec<String>> {
        let (volume, snapshot) = (plan.volume, plan.snapshot);
        let here = topology.holding(volume, snapshot).ok_or(Error::SnapshotMissing { volume, snapshot })?;
        if here.point(snapshot).is_none_or(|point| point.guid != plan.guid) {
            return Err(does_not_fit(plan, "the snapshot has another GUID here"));
        }
        self.check_sending(plan, &here.name).await?;
        let mut arguments = vec!["send".to_owned()];
        arguments.extend(plan.mode.arguments().map(str::to_owned));
        if let Some(base) = plan.kind.base() {
            let name = match plan.kind {
                StreamKind::Clone(_) => here
                    .origin
                    .as_ref()
                    .filter(|origin| origin.snapshot == base.snapshot)
                    .map(|origin| snapshot_name(&origin.filesystem, base.snapshot))
                    .ok_or_else(|| does_not_fit(plan, "it is no clone of the base any more"))?,
                _ => self
                    .base_name(here, base)
                    .await?
                    .ok_or_else(|| does_not_fit(plan, "the base is not on the snapshot's filesystem"))?,
            };
            arguments.extend(["-i".to_owned(), name]);
        }
        arguments.push(snapshot_name(&here.name, snapshot));
        Ok(arguments)
    }
}

/// Destroys a filesystem whose first stream did not arrive whole. The daemon or kernel does so by itself when it
/// notices that the stream ended, and is busy with it until then.
pub(crate) async fn destroy_half_received(filesystem: &str) -> Result<()> {
    let mut tries = 1;
    loop {
        match destroy_tree(filesystem).await {
            Err(Error::Busy(_)) if tries < LET_GO_TRIES => tries += 1,
            result => return result,
        }
        tokio::time::sleep(LET_GO_PAUSE).await;
    }
}

enum Landing {
    Tip(String),
    New(Place),
}

fn landing(topology: &Topology, plan: &SendPlan) -> Result<Landing> {
    let (main, branch) = (Place::Main(plan.volume), Place::Branch(plan.volume, plan.snapshot));
    match plan.kind {
        StreamKind::Full => {
            let usable = |main: &Filesystem| main.tip().is_some() || main.origin.is_some();
            let beside = topology.filesystem(main).is_some_and(usable);
            Ok(Landing::New(if beside { branch } else { main }))
        }
        StreamKind::Clone(base) => {
            let here = topology.of(plan.volume).any(|filesystem| has(filesystem, base));
            if here { Ok(Landing::New(branch)) } else { Err(does_not_fit(plan, "the base is not here")) }
        }
        StreamKind::Incremental(base) => {
            let lands = |filesystem: &&Filesystem| {
                let tip =
                    filesystem.tip().is_some_and(|tip| (tip.id, tip.guid) == (base.snapshot, base.guid));
                tip && !matches!(filesystem.place, Place::Task(..))
            };
            let filesystem = topology.of(plan.volume).find(lands);
            let filesystem = filesystem.ok_or_else(|| {
                does_not_fit(plan, "the base is not the newest snapshot of a filesystem here")
            })?;
            Ok(Landing::Tip(filesystem.name.clone()))
        }
    }
}

/// The filesystem here whose history the stream continues.
pub(super) fn continued<'a>(topology: &'a Topology, plan: &SendPlan) -> Option<&'a str> {
    let base = plan.kind.base()?;
    topology
        .of(plan.volume)
        .find(|filesystem| has(filesystem, base))
        .map(|filesystem| filesystem.name.as_str())
}

fn has(filesystem: &Filesystem, base: Base) -> bool {
    filesystem.point(base.snapshot).is_some_and(|point| point.guid == base.guid)
}

fn does_not_fit(plan: &SendPlan, why: &str) -> Error {
    let base = plan.kind.base().map_or_else(|| "nothing".to_owned(), |base| base.snapshot.to_string());
    let command = format!("stream of snapshot {} of volume {} from {base}", plan.snapshot, plan.volume);
    Error::WrongBase(Failure { command, said: why.to_owned() })
}
