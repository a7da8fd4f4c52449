//! One client carried to one upstream: two pumps, and what happens when either side ends.

use std::future::Future;
use std::time::Duration;

use russh::Disconnect;
use russh::server::Handle;
use tokio::task::JoinHandle;

use crate::flow::Outlet;
use crate::refusal::{self, RefusalReason};
use crate::upstream::{Target, Upstream, connect};

/// A refused client is let go this long after it has been told, if it does not go by itself.
const FAREWELL: Duration = Duration::from_secs(3);

/// A client's relay. Dropping it, which is what losing the client does, cuts the upstream connection off at once.
#[derive(Debug)]
pub(crate) struct Relay(JoinHandle<()>);

impl Relay {
    /// Carries what comes out of `from_client` to where `target` says, and back to `client`.
    pub(crate) fn start(
        client: Handle,
        from_client: Outlet,
        target: impl Future<Output = Result<Target, RefusalReason>> + Send + 'static,
    ) -> Self {
        Self(tokio::spawn(async move {
            let connected = match target.await {
                Ok(target) => connect(&target).await.map(|upstream| (upstream, target.name)),
                Err(reason) => Err(reason),
            };
            match connected {
                Ok((upstream, name)) => carry(&client, &from_client, upstream, &name).await,
                Err(reason) => refuse(&client, &from_client, reason).await,
            }
        }))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn carry(client: &Handle, from_client: &Outlet, upstream: Upstream, name: &str) {
    let outward = async {
        while let Some(packet) = from_client.next().await {
            if upstream.to.packet(packet).await.is_err() {
                break;
            }
        }
    };
    let inward = async {
        while let Some(packet) = upstream.from.next().await {
            if client.packet(packet).await.is_err() {
                break;
            }
        }
    };
    tokio::pin!(outward);
    tokio::select! {
        // The client's session is over; this relay is about to be dropped with it.
        () = &mut outward => {}
        () = inward => {
            let farewell = format!("the connection to {name} has ended");
            let _ = client.disconnect(Disconnect::ByApplication, farewell, "en".into()).await;
        }
    }
}

/// Says why to everything that the client asks for, and then lets it go.
async fn refuse(client: &Handle, from_client: &Outlet, reason: RefusalReason) {
    tracing::info!(%reason, "refused to carry an SSH connection");
    let told = async {
        while let Some(packet) = from_client.next().await {
            let asked_for_channel = refusal::opens_channel(&packet);
            if let Some(answer) = refusal::answer(packet, &reason)
                && client.packet(answer).await.is_err()
            {
                return;
            }
            if asked_for_channel {
                break;
            }
        }
        // Others may be asking already.
        let rest = async {
            while let Some(packet) = from_client.next().await {
                if let Some(answer) = refusal::answer(packet, &reason) {
                    let _ = client.packet(answer).await;
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    };
    // A client that asks for nothing is let go as well.
    let _ = tokio::time::timeout(FAREWELL * 10, told).await;
    let _ = client.disconnect(Disconnect::ByApplication, reason.0.clone(), "en".into()).await;
}
