//! Our own two ends: this program, started twice.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;
use ds_domain::ids::NodeId;
use ds_link::{Endpoint, Identity, Transports};
use tokio_util::sync::CancellationToken;

use super::{
    kit::Kit,
    network::{End, Network},
    process::own_program,
};

/// Sends standard input.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The receiver.
    #[arg(long)]
    to: SocketAddr,
    /// The receiver's id.
    #[arg(long)]
    node: NodeId,
    /// `auto`, `quic` or `tcp`.
    #[arg(long)]
    over: Transports,
    /// Lanes that it may use at most.
    #[arg(long)]
    lanes: Option<NonZeroUsize>,
    /// The folder of the sender's identity.
    #[arg(long)]
    identity: PathBuf,
}

/// Receives one transfer into standard output.
#[derive(Debug, Args)]
pub(crate) struct Receive {
    /// Where to listen.
    #[arg(long)]
    port: u16,
    /// The folder of the receiver's identity.
    #[arg(long)]
    identity: PathBuf,
}

/// What starts the receiver.
pub(crate) fn receiver(network: &Network, kit: &Kit, port: u16) -> Command {
    let mut command = network.command(End::Receiver, own_program());
    command.args(["transfer-receive", "--port", &port.to_string(), "--identity"]);
    command.arg(kit.receiver_identity());
    command
}

/// What starts the sender.
pub(crate) fn sender(
    network: &Network,
    kit: &Kit,
    port: u16,
    over: Transports,
    lanes: Option<NonZeroUsize>,
) -> Command {
    let to = SocketAddr::new(network.receiver_address(), port).to_string();
    let mut command = network.command(End::Sender, own_program());
    command.args(["transfer-send", "--to", &to, "--node", &kit.store().to_string()]);
    command.args(["--over", &over.to_string(), "--identity"]);
    command.arg(kit.sender_identity());
    if let Some(lanes) = lanes {
        command.args(["--lanes", &lanes.to_string()]);
    }
    command
}

impl Send {
    /// Returns once the receiver has written everything.
    pub(crate) async fn run(self) -> Result<()> {
        let mut endpoint = Endpoint::client(&load(&self.identity)?)?.over(self.over);
        if let Some(lanes) = self.lanes {
            endpoint = endpoint.with_most_lanes(lanes);
        }
        let link = endpoint.connect(self.to, self.node).await?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        ds_transfer::send_pipe(&link, input, &CancellationToken::new()).await?;
        Ok(())
    }
}

impl Receive {
    /// Returns once everything is written and the sender was told.
    pub(crate) async fn run(self) -> Result<()> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        let endpoint = Endpoint::bind(any, &load(&self.identity)?)?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        ds_transfer::receive_pipe(&endpoint, output, &CancellationToken::new()).await?;
        Ok(())
    }
}

/// The identity in a folder of the kit.
pub(crate) fn load(folder: &Path) -> Result<Identity> {
    Identity::load(folder)?.with_context(|| format!("{} has no identity", folder.display()))
}
