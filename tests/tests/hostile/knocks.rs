//! A path over which first packets go, and next to nothing comes back: every handshake on it stays half open.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

/// Where the store sees them all.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// The form and type bits of a QUIC version 1 packet that asks to show an address (RFC 9000, section 17.2.5).
const RETRY: u8 = 0b1111_0000;

const LARGEST_DATAGRAM: usize = 65_536;

/// What those who knock hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hears {
    /// As with addresses that are made up.
    Nothing,
    /// The question whether they can be reached, which they answer. Then nothing.
    Retries,
}

pub(crate) struct Knocks {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
    _carrying: AbortOnDropHandle<()>,
}

impl Knocks {
    pub(crate) async fn to(store: SocketAddr, hears: Hears) -> Result<Self> {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let far = UdpSocket::bind((ADDRESS, 0)).await?;
        far.connect(store).await?;
        let (address, carried) = (near.local_addr()?, Arc::default());
        let carrying = tokio::spawn(carry(near, far, hears, Arc::clone(&carried)));
        Ok(Self { address, carried, _carrying: AbortOnDropHandle::new(carrying) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams so far.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

/// Connections over TCP on which nothing is said; those that the store lets stand, stand as long as the answer is kept.
pub(crate) async fn silent_connections(store: SocketAddr, number: usize) -> Result<Vec<TcpStream>> {
    let mut standing = Vec::new();
    for _ in 0..number {
        let socket = TcpSocket::new_v4()?;
        socket.bind((ADDRESS, 0).into())?;
        standing.extend(socket.connect(store).await.ok());
    }
    Ok(standing)
}

async fn carry(near: UdpSocket, far: UdpSocket, hears: Hears, carried: Arc<AtomicU64>) {
    let (mut there, mut back) = (vec![0; LARGEST_DATAGRAM], vec![0; LARGEST_DATAGRAM]);
    let mut dialler = None;
    loop {
        tokio::select! {
            Ok((length, from)) = near.recv_from(&mut there) => {
                dialler = Some(from);
                carried.fetch_add(1, Ordering::Relaxed);
                let _ = far.send(&there[..length]).await;
            }
            Ok(length) = far.recv(&mut back) => {
                if let (Hears::Retries, Some(dialler)) = (hears, dialler)
                    && back[0] & RETRY == RETRY
                {
                    let _ = near.send_to(&back[..length], dialler).await;
                }
            }
        }
    }
}
