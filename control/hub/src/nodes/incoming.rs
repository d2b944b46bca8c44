//! Connections of nodes, as many as the hub has room for: each costs memory before anybody proved who they are.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::address::source;

/// Connections at once, from everywhere and from one address.
const ALL: u32 = 1024;
const OF_ONE: u32 = 256;
/// Before the next attempt where the system has no room for a connection.
const RETRY: Duration = Duration::from_millis(100);

/// Accepts connections; those beyond the limits are closed at once.
pub(super) fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Admitted>> {
    stream::unfold((listener, Arc::default()), |(listener, places)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(place) = Place::take(&places, source(peer.ip())) else {
                        tracing::warn!(peer = %peer, "closed a connection to the nodes' port: there are too many");
                        continue;
                    };
                    // Fails only if it is closed already.
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(Admitted { stream, _place: place }), (listener, places)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the nodes' port");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    })
}

type Places = Arc<Mutex<HashMap<IpAddr, u32>>>;

/// One of the connections that there is room for; free again when dropped.
struct Place {
    places: Places,
    of: IpAddr,
}

impl Place {
    fn take(places: &Places, of: IpAddr) -> Option<Self> {
        let mut taken = places.lock().expect("no holder of this lock panics");
        if taken.values().sum::<u32>() >= ALL || taken.get(&of).is_some_and(|count| *count >= OF_ONE) {
            return None;
        }
        *taken.entry(of).or_default() += 1;
        Some(Self { places: Arc::clone(places), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock().expect("no holder of this lock panics");
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

/// A connection that has a place.
pub(super) struct Admitted {
    stream: TcpStream,
    _place: Place,
}

impl Connected for Admitted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others_and_places_come_back() {
        let places = Places::default();
        let [one, other] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let held: Vec<Place> = std::iter::from_fn(|| Place::take(&places, one)).collect();
        assert_eq!(held.len(), usize::try_from(OF_ONE).unwrap());
        assert!(Place::take(&places, other).is_some());
        drop(held);
        assert!(places.lock().unwrap().is_empty());
        assert!(Place::take(&places, one).is_some());
    }
}
