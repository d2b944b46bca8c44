use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use super::{Relay, Weather};

/// Longer than anything takes on one machine.
const SOON: Duration = Duration::from_secs(5);
/// Long enough for what is not to arrive.
const NEVER: Duration = Duration::from_millis(200);

async fn echo(socket: UdpSocket) {
    let mut buffer = [0; 2_000];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let _ = socket.send_to(&buffer[..length], from).await;
    }
}

async fn answers(socket: &UdpSocket, patience: Duration) -> Result<Vec<u8>> {
    let mut buffer = [0; 2_000];
    let length = timeout(patience, socket.recv(&mut buffer)).await??;
    Ok(buffer[..length].to_vec())
}

#[tokio::test]
async fn datagrams_meet_the_weather() -> Result<()> {
    let target = UdpSocket::bind("127.0.0.1:0").await?;
    let relay = Relay::to(target.local_addr()?, 7).await?;
    tokio::spawn(echo(target));
    let dialler = UdpSocket::bind("127.0.0.1:0").await?;
    dialler.connect(relay.address()).await?;

    dialler.send(b"one").await?;
    assert_eq!(answers(&dialler, SOON).await?, b"one");
    relay.set(Weather { damaged: 1000, delay: Duration::from_millis(30), ..Weather::CLEAR });
    dialler.send(b"two").await?;
    let two = answers(&dialler, SOON).await?;
    let flipped: u32 = two.iter().zip(b"two").map(|(a, b)| (a ^ b).count_ones()).sum();
    assert!(flipped == 2 || flipped == 0, "one bit each way, perhaps the same: {two:?}");
    relay.set(Weather { doubled: 1000, ..Weather::CLEAR });
    dialler.send(b"more").await?;
    for _ in 0..4 {
        assert_eq!(answers(&dialler, SOON).await?, b"more", "twice there, and each twice back");
    }
    relay.set(Weather::SILENT);
    dialler.send(b"lost").await?;
    assert!(answers(&dialler, NEVER).await.is_err());
    relay.set(Weather::CLEAR);
    relay.forget_flows();
    dialler.send(b"forgotten").await?;
    assert!(answers(&dialler, NEVER).await.is_err());
    let other = UdpSocket::bind("127.0.0.1:0").await?;
    other.connect(relay.address()).await?;
    other.send(b"new").await?;
    assert_eq!(answers(&other, SOON).await?, b"new");
    assert_eq!(relay.bytes_towards_target(), 3 + 3 + 4 + 4 + 9 + 3);
    Ok(())
}

#[tokio::test]
async fn a_connection_is_stalled_and_forgotten() -> Result<()> {
    let target = TcpListener::bind("127.0.0.1:0").await?;
    let relay = Relay::to(target.local_addr()?, 7).await?;
    let mut dialler = TcpStream::connect(relay.address()).await?;
    let (mut answering, _) = target.accept().await?;
    let mut word = [0; 5];

    dialler.write_all(b"hello").await?;
    timeout(SOON, answering.read_exact(&mut word)).await??;
    relay.set(Weather::SILENT);
    dialler.write_all(b"later").await?;
    assert!(timeout(NEVER, answering.read_exact(&mut word)).await.is_err());
    relay.set(Weather::CLEAR);
    timeout(SOON, answering.read_exact(&mut word)).await??;
    assert_eq!(&word, b"later");
    relay.forget_flows();
    dialler.write_all(b"never").await?;
    assert!(timeout(NEVER, answering.read_exact(&mut word)).await.is_err());
    assert!(TcpStream::connect(relay.address()).await.is_ok());
    Ok(())
}
