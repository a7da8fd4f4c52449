//! Upgraded connections: after a 101 the two sides are joined and bytes flow both ways until both have ended.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

/// Bytes in flight in each direction of a tunnel.
const BUFFER: usize = 16 << 10;

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
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "an upgrade was not completed");
                return;
            }
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await {
            tracing::debug!(%error, "an upgraded connection was cut");
        }
    });
    Tunnel(joined.abort_handle())
}
