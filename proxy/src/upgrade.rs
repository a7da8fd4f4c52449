//! Upgraded connections: after a 101 the two sides are joined and bytes flow both ways until both have ended.
//!
//! Each direction ends by itself. A client that says something and leaves at once breaks the way back to it, but what it said still arrives.

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;

/// Bytes in flight in each direction of a tunnel.
const BUFFER: usize = 16 << 10;
/// How long one direction may go on after the other has failed.
const LINGER: Duration = Duration::from_secs(5);

/// Two joined connections, in the extensions of the 101 that joined them: tells whether they still are.
#[derive(Debug, Clone)]
pub struct Tunnel(tokio::task::AbortHandle);

impl Tunnel {
    /// Whether bytes can still flow.
    pub fn is_open(&self) -> bool {
        !self.0.is_finished()
    }
}

/// Joins the client's and the upstream's connection. The task owns both, so it ends when they do, and they end when it does.
pub(crate) fn tunnel(client: OnUpgrade, upstream: OnUpgrade) -> Tunnel {
    let joined = tokio::spawn(async move {
        match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => join(TokioIo::new(client), TokioIo::new(upstream)).await,
            Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
        }
    });
    Tunnel(joined.abort_handle())
}

async fn join(client: impl AsyncRead + AsyncWrite, upstream: impl AsyncRead + AsyncWrite) {
    let ((from_client, to_client), (from_upstream, to_upstream)) = (split(client), split(upstream));
    let mut there = pin!(carry(from_client, to_upstream));
    let mut back = pin!(carry(from_upstream, to_client));
    let (first, last) = tokio::select! {
        first = &mut there => { let last = outlast(&first, back).await; (first, last) }
        first = &mut back => { let last = outlast(&first, there).await; (first, last) }
    };
    if let Err(error) = first.and(last) {
        tracing::debug!(%error, "an upgraded connection was cut");
    }
}

async fn outlast(first: &io::Result<()>, other: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match first {
        Ok(()) => other.await,
        Err(_) => timeout(LINGER, other).await.unwrap_or(Ok(())),
    }
}

/// Carries bytes one way until the sender has ended, and ends the receiver's side then, also when the sender broke off.
async fn carry(from: impl AsyncRead, to: impl AsyncWrite) -> io::Result<()> {
    let (mut from, mut to) = (pin!(from), pin!(to));
    let mut buffer = vec![0; BUFFER];
    let end = loop {
        match from.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count]).await?;
                to.flush().await?;
            }
            Err(error) => break Err(error),
        }
    };
    to.shutdown().await?;
    end
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_leaving_arrives_although_the_way_back_is_broken() {
        let (mut client, near) = duplex(64);
        let (far, mut upstream) = duplex(64);
        // The upstream talks at once, to a client that does not listen any more.
        upstream.write_all(b"welcome").await.unwrap();
        client.write_all(b"last words").await.unwrap();
        drop(client);
        let joined = tokio::spawn(join(near, far));
        let mut heard = String::new();
        timeout(LINGER, upstream.read_to_string(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, "last words");
        drop(upstream);
        joined.await.unwrap();
    }

    #[tokio::test]
    async fn a_half_that_is_closed_leaves_the_other_open() {
        let (mut client, near) = duplex(64);
        let (far, mut upstream) = duplex(64);
        let joined = tokio::spawn(join(near, far));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        upstream.read_to_string(&mut heard).await.unwrap();
        upstream.write_all(b"answer").await.unwrap();
        drop(upstream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((heard.as_str(), answer.as_str()), ("question", "answer"));
        joined.await.unwrap();
    }
}
