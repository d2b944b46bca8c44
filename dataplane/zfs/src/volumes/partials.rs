//! Half-received snapshots, where ZFS keeps them: found again after anything, gone on with, or let go.

use ds_domain::ids::{SnapshotId, VolumeId};

use super::{Volumes, ignore_missing, streams::continued};
use crate::{
    Error, Intake, Result, ResumeToken, SendPlan, Sending, command, command::zfs, names::Place, stream,
    target::Target,
};

const NEEDS_TOKENS: &str = "resumable receives (OpenZFS 0.7)";

/// A snapshot of which a part is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Whose.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How to go on with it.
    pub token: ResumeToken,
    /// Where it is being received.
    filesystem: String,
}

impl Volumes {
    /// What is here of a snapshot that was half received. `None` if there is nothing, or if this ZFS keeps no such parts.
    pub async fn resumable(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Option<ResumeToken>> {
        Ok(self.partial(volume, snapshot).await?.map(|partial| partial.token))
    }

    /// All that is half received here, also what is being received right now; none where this ZFS keeps no such parts.
    pub async fn partials(&self) -> Result<Vec<Partial>> {
        let layout = &self.inner.layout;
        self.partials_below(&[&layout.mains(), &layout.all_branches()]).await
    }

    /// Destroys what is here of a snapshot that was half received. Nothing to do is no error.
    pub async fn discard_partial(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let _lock = self.lock(volume).await;
        match self.partial(volume, snapshot).await? {
            Some(partial) => self.discard(&partial).await.map(drop),
            None => Ok(()),
        }
    }

    /// Destroys everything half received that is not among `wanted` and is not being received; gives how many that were.
    pub async fn collect_partials(&self, wanted: &[(VolumeId, SnapshotId)]) -> Result<usize> {
        let mut collected = 0;
        for partial in self.partials().await? {
            if !wanted.contains(&(partial.volume, partial.snapshot)) {
                let _lock = self.lock(partial.volume).await;
                collected += usize::from(self.discard(&partial).await?);
            }
        }
        Ok(collected)
    }

    /// What a token of another machine says; `None` where it is none, or where this ZFS knows no tokens.
    pub async fn read_token(&self, token: &str) -> Result<Option<ResumeToken>> {
        if self.features().resume { decode(token).await } else { Ok(None) }
    }

    /// Starts sending what is still missing at the end that gave this token. Fails with [`Error::StaleToken`] where the token is
    /// none or belongs to another stream than the planned one: that end is then to discard it and start over.
    pub async fn send_resumed(&self, plan: &SendPlan, token: &str) -> Result<Sending> {
        self.require_tokens()?;
        let _lock = self.lock(plan.volume).await;
        let topology = self.topology_of(plan.volume).await?;
        // It must be possible to begin the stream as well: a token can outlive what it names.
        self.send_arguments(&topology, plan).await?;
        // Whoever gave the token must not choose what is sent.
        match decode(token).await? {
            Some(decoded) if decoded.fits(plan) => stream::send(&["send", "-t", token]),
            _ => Err(stale(plan)),
        }
    }

    /// Makes ready to go on with the planned stream where an earlier receive of it broke off. Where what is here belongs to
    /// another stream it is destroyed, and that or nothing being here is [`Error::StaleToken`]: start over with [`Volumes::receive`].
    pub async fn receive_resumed(&self, plan: &SendPlan) -> Result<Intake> {
        self.require_tokens()?;
        self.check_known(plan.mode)?;
        let _lock = self.lock(plan.volume).await;
        let (volume, snapshot) = (plan.volume, plan.snapshot);
        let partial = self.partial(volume, snapshot).await?.ok_or_else(|| stale(plan))?;
        if !partial.token.fits(plan) {
            self.discard(&partial).await?;
            return Err(stale(plan));
        }
        // A token does not name all that was allowed when it was begun.
        if let Some(continued) = continued(&self.topology_of(volume).await?, plan) {
            self.check_receiving(plan, continued).await?;
        }
        let claim = self.inner.receiving.claim(&partial.filesystem, snapshot);
        let claim = claim.ok_or(Error::UnderWay { volume, snapshot })?;
        Ok(Intake::new(Target::volume(self, plan, partial.filesystem), Some(partial.token), claim))
    }

    /// Destroys what is half received on a filesystem: the filesystem itself, or what was to become its next snapshot.
    pub(crate) async fn drop_partial_on(&self, filesystem: &str) -> Result<()> {
        if !self.features().resume {
            return Ok(());
        }
        abandon(filesystem).await
    }

    /// `false` where it is being received.
    async fn discard(&self, partial: &Partial) -> Result<bool> {
        match self.inner.receiving.claim(&partial.filesystem, partial.snapshot) {
            Some(_claim) => self.drop_partial_on(&partial.filesystem).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn partial(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Option<Partial>> {
        let datasets = [self.name(Place::Main(volume)), self.inner.layout.branches(volume)];
        let all = self.partials_below(&datasets.each_ref().map(String::as_str)).await?;
        Ok(all.into_iter().find(|partial| partial.snapshot == snapshot))
    }

    /// From one listing, and a question for each token.
    async fn partials_below(&self, datasets: &[&str]) -> Result<Vec<Partial>> {
        if !self.features().resume {
            return Ok(Vec::new());
        }
        let mut arguments =
            vec!["get", "-Hp", "-r", "-t", "filesystem", "-o", "name,value", "receive_resume_token"];
        arguments.extend(datasets);
        let mut found = Vec::new();
        let mut sort = |line: &str| {
            let of_value = line.split_once('\t').filter(|(_, token)| *token != "-");
            found.extend(of_value.map(|(name, token)| (name.to_owned(), token.to_owned())));
        };
        match command::zfs_lines(&arguments, &mut sort).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let mut partials = Vec::new();
        for (filesystem, token) in found {
            let volume = self.inner.layout.parse(&filesystem).and_then(Place::volume);
            let Some((volume, token)) = volume.zip(decode(&token).await?) else { continue };
            if let Some(snapshot) = token.snapshot() {
                partials.push(Partial { volume, snapshot, token, filesystem });
            }
        }
        Ok(partials)
    }

    fn require_tokens(&self) -> Result<()> {
        let features = self.features();
        if features.resume {
            return Ok(());
        }
        Err(Error::Unsupported { version: features.version.clone(), what: NEEDS_TOKENS })
    }
}

/// What the token of a half-received filesystem says. For a ZFS that knows resume tokens.
pub(crate) async fn token_of(filesystem: &str) -> Result<Option<ResumeToken>> {
    match zfs(&["get", "-Hp", "-o", "value", "receive_resume_token", filesystem]).await {
        Ok(token) if token.trim_end() != "-" => decode(token.trim_end()).await,
        Ok(_) | Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives up what is half received on a filesystem, if anything is. For a ZFS that knows resume tokens.
pub(crate) async fn abandon(filesystem: &str) -> Result<()> {
    match command::zfs_patiently(&["receive", "-A", filesystem]).await {
        Err(Error::Failed(failure)) if failure.said.contains("does not have any resumable") => Ok(()),
        result => ignore_missing(result),
    }
}

/// Asks ZFS, which says it of tokens of any machine, and then may say that it does not have that snapshot.
pub(crate) async fn decode(token: &str) -> Result<Option<ResumeToken>> {
    if !ResumeToken::is_well_formed(token) {
        return Ok(None);
    }
    let said = command::zfs_said(&["send", "-nvt", token]).await?;
    Ok(ResumeToken::parse(token, &said))
}

fn stale(plan: &SendPlan) -> Error {
    Error::StaleToken { volume: plan.volume, snapshot: plan.snapshot }
}
