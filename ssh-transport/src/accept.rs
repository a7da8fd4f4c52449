//! Accepting connections, so many at once, and ending them.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// After a failure that concerns the process, such as having no descriptors left, accepting pauses.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives each connection that `admit` lets in to `converse`, at most `limit` at once; more are closed before a byte is exchanged. Dropping the future ends
/// them all.
pub async fn accept<F, E>(
    listener: TcpListener,
    limit: usize,
    admit: impl Fn(SocketAddr) -> bool,
    converse: impl Fn(TcpStream, SocketAddr) -> F,
) -> std::convert::Infallible
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    let places = Arc::new(Semaphore::new(limit));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept an SSH connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !admit(peer) {
            tracing::warn!(%peer, "refused an SSH connection from an address that may not use it");
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, limit, "too many SSH connections: refused one");
            continue;
        };
        let conversation = converse(stream, peer);
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = conversation.await {
                tracing::debug!(%peer, %error, "an SSH connection ended early");
            }
        });
    }
}

/// Shuts a socket down when dropped: russh's sessions run in tasks of their own, and the end of its stream is what ends one.
#[derive(Debug)]
pub struct HangUp(OwnedFd);

impl HangUp {
    /// Of this socket, whoever holds it meanwhile.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        stream.as_fd().try_clone_to_owned().map(Self)
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn hold(mut stream: TcpStream) -> io::Result<()> {
        stream.write_all(b"in").await?;
        stream.read_u8().await.map(drop)
    }

    #[tokio::test]
    async fn no_more_than_the_limit_and_only_who_may() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            tokio::spawn(accept(listener, 1, |peer| peer.ip().is_loopback(), |stream, _| hold(stream)));
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut greeting = [0; 2];
        first.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"in");
        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(second.read(&mut greeting).await.unwrap_or(0), 0, "there is no place for a second");
        server.abort();
        assert_eq!(
            first.read(&mut greeting).await.unwrap_or(0),
            0,
            "dropping the server ends what it serves"
        );
    }

    #[tokio::test]
    async fn a_stranger_is_closed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let nobody = accept(listener, 1, |_| false, |_, _| std::future::ready(Ok::<_, io::Error>(())));
        let server = tokio::spawn(nobody);
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(stream.read(&mut [0; 2]).await.unwrap_or(0), 0);
        server.abort();
    }
}
