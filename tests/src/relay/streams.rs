//! The path for TCP connections.

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::JoinSet,
    time::sleep,
};

use super::{Path, RESET_AFTER};

/// Bytes that are carried at once, and meet one fate.
const PIECE_BYTES: usize = 64 << 10;

/// Connections at once; whoever dials another one waits.
const MAX_CONNECTIONS: usize = 1_024;

/// How often it is looked whether a silent path has found its voice.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Towards,
    Back,
}

pub(super) async fn carry(listener: TcpListener, path: Arc<Path>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                if let Ok((incoming, _)) = accepted {
                    connections.spawn(connect(incoming, Arc::clone(&path)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Where nobody listens, the dialling end sees its connection end.
async fn connect(mut incoming: TcpStream, path: Arc<Path>) {
    let born = path.epoch();
    let Ok(mut outgoing) = dial(path.exit, path.target).await else { return };
    let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
    let (from_dialler, to_dialler) = incoming.split();
    let (from_target, to_target) = outgoing.split();
    let carrying = async {
        tokio::join!(
            pour(from_dialler, to_target, Way::Towards, born, &path),
            pour(from_target, to_dialler, Way::Back, born, &path)
        )
    };
    let forgotten = async {
        path.forgets(born).await;
        if path.swallows() {
            return pending().await;
        }
        sleep(RESET_AFTER).await;
    };
    tokio::select! {
        _ = carrying => {}
        () = forgotten => {
            // What is closed so is reset.
            let _ = (incoming.set_zero_linger(), outgoing.set_zero_linger());
        }
    }
}

async fn dial(exit: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((exit, 0).into())?;
    socket.connect(target).await
}

async fn pour(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way, born: u64, path: &Path) {
    let mut piece = vec![0; PIECE_BYTES];
    // An end that breaks off ends both directions soon: the other one finds nobody to write to.
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let counter = if way == Way::Towards { &path.towards } else { &path.back };
        counter.fetch_add(length as u64, Ordering::Relaxed);
        while path.weather().is_silent() && path.knows(born) {
            sleep(LOOK).await;
        }
        match path.knows(born) {
            true => {}
            false if path.swallows() => continue,
            // It is reset later.
            false => return pending().await,
        }
        let delay = path.fate_of_piece(&mut piece[..length]);
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    if !path.knows(born) {
        return pending().await;
    }
    let _ = to.shutdown().await;
}
