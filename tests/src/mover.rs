//! One end of a transfer as a process of its own, without a hub: what the program `ds-mover` does, and what it is told.
//!
//! `ds-mover store FILE` serves until it is killed, and says `ready` once it listens. `ds-mover move FILE` pushes or pulls one
//! snapshot; it says `written BYTES` as it goes, and last `done` or `failed`, as an [`End`]. Each ends with whoever started it:
//! when its standard input does.

use std::{
    fmt,
    io::{Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, bail};
use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Endpoint, Identity};
use ds_proto::v1::SignedTicket;
use ds_transfer::{Progress, Store, StoreConfig};
use ds_zfs::Volumes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

/// What it says when a store listens.
pub const READY: &str = "ready";

/// What it says before the bytes that are written at the receiver.
pub const WRITTEN: &str = "written ";

/// Bytes between two words about progress.
const STEP_BYTES: u64 = 256 << 10;

/// A store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreSpec {
    /// The folder with its identity.
    pub identity: PathBuf,
    /// The dataset that it owns.
    pub root: String,
    /// Its folder.
    pub state_dir: PathBuf,
    /// Where links arrive.
    pub listen: SocketAddr,
    /// Verifies tickets: Ed25519.
    pub ticket_public_key: [u8; 32],
}

/// One snapshot that is to be moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MoveSpec {
    /// From which end.
    pub way: Way,
    /// The folder with the identity of the end that dials.
    pub identity: PathBuf,
    /// The dataset that it owns.
    pub root: String,
    /// Where its clones are mounted.
    pub mounts: PathBuf,
    /// Where the store is dialled.
    pub address: SocketAddr,
    /// Over QUIC, TCP, or whichever is better: as `ds_link::Transports` is written.
    pub transports: String,
    /// Which store it has to be.
    pub store: NodeId,
    /// The volume.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The ticket: what was signed.
    pub ticket: Vec<u8>,
    /// The ticket: its signature.
    pub signature: Vec<u8>,
}

/// From which end a snapshot moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// From the end that dials to the store.
    Push,
    /// From the store to the end that dials.
    Pull,
}

/// How a move ended. As text it is the last line of `ds-mover move`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The snapshot is at the other end, which said so.
    Done,
    /// It is not, or nobody knows.
    Failed {
        /// What kind of failure, as `ds_transfer::ErrorKind` names it.
        kind: String,
        /// Whether another attempt can help.
        retryable: bool,
        /// For people.
        text: String,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::Failed { kind, retryable, text } => write!(f, "failed {kind} {retryable} {text}"),
        }
    }
}

impl FromStr for End {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let parts: Vec<_> = line.splitn(4, ' ').collect();
        match parts.as_slice() {
            ["done"] => Ok(Self::Done),
            ["failed", kind, retryable, text] => Ok(Self::Failed {
                kind: (*kind).to_owned(),
                retryable: retryable.parse()?,
                text: (*text).to_owned(),
            }),
            _ => bail!("a mover ends with {line:?}"),
        }
    }
}

/// What the program does with its arguments. Needs a tokio runtime.
pub async fn run(arguments: &[String]) -> Result<()> {
    end_with_standard_input();
    match arguments {
        [what, file] if what == "store" => serve(read(file.as_ref())?).await,
        [what, file] if what == "move" => {
            let moved = move_one(read(file.as_ref())?).await;
            say(&moved?.to_string());
            Ok(())
        }
        _ => bail!("usage: ds-mover store|move FILE"),
    }
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} does not say what to do", file.display()))
}

async fn serve(spec: StoreSpec) -> Result<()> {
    let config = StoreConfig {
        listen: spec.listen,
        root: spec.root,
        state_dir: spec.state_dir,
        identity: identity(&spec.identity)?,
        ticket_public_key: spec.ticket_public_key,
    };
    let store = Store::build(config).await?;
    say(READY);
    store.run(CancellationToken::new()).await;
    Ok(())
}

async fn move_one(spec: MoveSpec) -> Result<End> {
    let volumes = Volumes::open(&spec.root, &spec.mounts).await?;
    let transports = spec.transports.parse().map_err(anyhow::Error::msg)?;
    let endpoint = Endpoint::client(&identity(&spec.identity)?)?.over(transports);
    let moved = async {
        let link = endpoint.connect(spec.address, spec.store).await?;
        let ticket = SignedTicket { payload: spec.ticket, signature: spec.signature };
        let (never, said) = (CancellationToken::new(), AtomicU64::new(0));
        let note = move |progress: Progress| {
            if progress.bytes >= said.load(Ordering::Relaxed) + STEP_BYTES {
                said.store(progress.bytes, Ordering::Relaxed);
                say(&format!("{WRITTEN}{}", progress.bytes));
            }
        };
        let (volume, snapshot) = (spec.volume, spec.snapshot);
        match spec.way {
            Way::Push => {
                ds_transfer::push(&link, &volumes, ticket, volume, snapshot, note, &never).await.map(drop)
            }
            Way::Pull => {
                ds_transfer::pull(&link, &volumes, ticket, volume, snapshot, note, &never).await.map(drop)
            }
        }
    };
    let end = moved.await.map_or_else(|error| failed(&error), |()| End::Done);
    endpoint.closed().await;
    Ok(end)
}

fn failed(error: &ds_transfer::Error) -> End {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let text = text.replace('\n', " ");
    End::Failed { kind: format!("{:?}", error.kind()), retryable: error.is_retryable(), text }
}

fn identity(folder: &Path) -> Result<Identity> {
    Identity::load(folder)?.with_context(|| format!("{} has no identity", folder.display()))
}

/// Whoever started us listens, or is gone, and then we go as well.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// So that nothing outlives a test that was killed.
fn end_with_standard_input() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_is_said() -> Result<()> {
        let failed = End::Failed { kind: "Busy".into(), retryable: true, text: "try again later".into() };
        for end in [End::Done, failed] {
            assert_eq!(end.to_string().parse::<End>()?, end);
        }
        assert!("written 12".parse::<End>().is_err());
        Ok(())
    }
}
