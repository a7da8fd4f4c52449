//! A daemon that was launched beside an image's own entrypoint can die while its sandbox lives, of hunger for instance.
//!
//! The engine tells of the end of every exec but not whose it was, so the daemon's port is asked: a refused connection, and nothing else, is a
//! dead daemon. It also dies with its sandbox, and the engine may tell of the daemon's end first: then the sandbox's end is what users are told.
//! A daemon that is the sandbox's first process needs none of this, its end being the sandbox's; an Android device has no daemon.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::SandboxId;
use tokio::net::TcpStream;

use super::start::Inside;
use super::{Urgency, readiness};
use crate::error::{Class, OpError, OpResult};
use crate::index::{Sandbox, SandboxState};
use crate::node::Node;

const CONNECT: Duration = Duration::from_secs(1);
/// Launches after the first, for one start of a sandbox: what goes on dying is broken.
const MOST: u32 = 5;
/// How late the engine may tell that a container has ended, after it refused to launch anything in it for that.
const LATE: Duration = Duration::from_secs(3);

impl Node {
    /// Launches a sandbox's daemon again if it is dead. To be called when an exec in it has ended.
    pub(crate) async fn look_after_daemon(self: &Arc<Self>, id: &SandboxId) {
        if !self.is_daemon_dead(id).await {
            return;
        }
        let (node, owned) = (self.clone(), id.clone());
        let revived = self.owners.run(id, Urgency::InTurn, async move { node.revive(&owned).await }).await;
        let Err(error) = revived else { return };
        if !self.ends_soon(id).await {
            tracing::error!(sandbox = %id, %error, "the daemon of a sandbox is dead");
            self.index.change_known(id, |s| {
                if s.status == ContainerStatus::Running {
                    s.state = SandboxState::Error;
                    s.failure = Some(format!("the sandbox's daemon died: {error}"));
                }
            });
        }
        self.news.raise();
    }

    /// Whether the sandbox's first process has ended as well: then its end is the reason that users are told, not the daemon's.
    async fn ends_soon(&self, id: &SandboxId) -> bool {
        let ended =
            |s: Option<&Sandbox>| s.is_none_or(|s| s.status != ContainerStatus::Running).then_some(());
        tokio::time::timeout(LATE, self.index.wait(id, ended)).await.is_ok()
    }

    async fn is_daemon_dead(&self, id: &SandboxId) -> bool {
        let known = self.index.get(id).filter(|s| !s.busy && s.status == ContainerStatus::Running);
        match known.and_then(|s| s.address) {
            Some(address) => refuses(self, address).await,
            None => false,
        }
    }

    async fn revive(&self, id: &SandboxId) -> OpResult<()> {
        // It may have been stopped or started anew meanwhile.
        if !self.is_daemon_dead(id).await {
            return Ok(());
        }
        let found = self.engine.inspect(id.as_str()).await?;
        let Some(address) = self.index.get(id).and_then(|s| s.address) else { return Ok(()) };
        let inside = Inside::of(&found.labels, &found.entrypoint);
        if inside != Inside::Program || found.status != ContainerStatus::Running {
            return Ok(());
        }
        let mut times = 0;
        self.index.change_known(id, |s| {
            s.revived += 1;
            times = s.revived;
        });
        if times > MOST {
            return Err(OpError::new(
                Class::Internal,
                format!("it was launched again {MOST} times and goes on dying"),
            ));
        }
        let _busy = self.busy(id);
        self.launch_daemon(id).await?;
        let version = readiness::wait(self, id, address, None).await?;
        self.index.change(id, |s| s.daemon_version = Some(version));
        tracing::warn!(sandbox = %id, times, "the daemon of a sandbox died and was launched again; its sessions are gone");
        Ok(())
    }
}

async fn refuses(node: &Node, address: Ipv4Addr) -> bool {
    let address = SocketAddr::from((address, node.config.toolbox_port));
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
    matches!(connecting, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}
