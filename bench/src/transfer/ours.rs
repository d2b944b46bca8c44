//! Our own two ends: this program, started twice.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use bytes::{BufMut, BytesMut};
use clap::Args;
use ds_blockio::BlockIo;
use ds_domain::ids::NodeId;
use ds_link::{ChunkReader, Endpoint, Identity};

use super::{
    kit::Kit,
    network::{End, Network},
    process::own_program,
};

const CHUNK_BYTES: usize = 4 << 20;
/// Names the encoding and the transfer at the head of each chunk's stream.
const HEAD: [u8; 20] = [1; 20];
/// What the receiver says when it has written everything.
const RECEIVED: &str = "received";

/// Sends standard input.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The receiver.
    #[arg(long)]
    to: SocketAddr,
    /// The receiver's id.
    #[arg(long)]
    node: NodeId,
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
pub(crate) fn sender(network: &Network, kit: &Kit, port: u16) -> Command {
    let to = SocketAddr::new(network.receiver_address(), port).to_string();
    let mut command = network.command(End::Sender, own_program());
    command.args(["transfer-send", "--to", &to, "--node", &kit.store().to_string(), "--identity"]);
    command.arg(kit.sender_identity());
    command
}

impl Send {
    /// Returns once the receiver has written everything.
    pub(crate) async fn run(self) -> Result<()> {
        let endpoint = Endpoint::client(&load(&self.identity)?)?;
        let link = endpoint.connect(self.to, self.node).await?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let mut reader = BlockIo::detect().reader(input, CHUNK_BYTES, 2)?;
        for index in 0_u64.. {
            let piece = reader.next().await.transpose()?;
            let mut chunk = link.open_chunk().await?;
            let mut head = BytesMut::from(&HEAD[..]);
            head.put_u64(index);
            chunk.write(head.freeze()).await?;
            // One without bytes is the end.
            let last = piece.is_none();
            chunk.write(piece.unwrap_or_default()).await?;
            chunk.finish()?;
            if last {
                break;
            }
        }
        let end = link.closed().await;
        anyhow::ensure!(end.to_string().contains(RECEIVED), end);
        Ok(())
    }
}

impl Receive {
    /// Returns once everything is written and the sender was told.
    pub(crate) async fn run(self) -> Result<()> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        let endpoint = Endpoint::bind(any, &load(&self.identity)?)?;
        let link = endpoint.accept().await.context("the endpoint was closed")?.link().await?;
        let mut chunks = link.chunks(HEAD[4..].try_into().expect("16 bytes"));
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let mut writer = BlockIo::detect().writer(output, 4)?;
        let mut waiting: BTreeMap<u64, ChunkReader> = BTreeMap::new();
        for index in 0_u64.. {
            let mut chunk = loop {
                if let Some(chunk) = waiting.remove(&index) {
                    break chunk;
                }
                let mut chunk = chunks.next().await.context("the sender went away")?;
                let mut number = [0; 8];
                chunk.read_exact(&mut number).await?;
                waiting.insert(u64::from_be_bytes(number), chunk);
            };
            let mut bytes = 0;
            while let Some(piece) = chunk.read(CHUNK_BYTES).await? {
                bytes += piece.len();
                writer.write(piece).await?;
            }
            if bytes == 0 {
                break;
            }
        }
        writer.finish().await?;
        link.close(RECEIVED);
        endpoint.closed().await;
        Ok(())
    }
}

/// The identity in a folder of the kit.
pub(crate) fn load(folder: &Path) -> Result<Identity> {
    Identity::load(folder)?.with_context(|| format!("{} has no identity", folder.display()))
}
