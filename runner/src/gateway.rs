//! The SSH gateway's wiring: its keys, its listener, and where sandboxes are.

use std::net::SocketAddr;
use std::sync::Arc;

use pinfold_proto::well_known::DAEMON_SSH_PORT;
use pinfold_ssh_relay::{PrivateKey, PublicKey, RefusalReason, load_or_create, parse_authorized_line};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::toolbox::daemon_address;
use crate::config::SshGateway;
use crate::error::RunError;
use crate::node::{Node, sandbox_id};
use crate::ssh_gateway::{SandboxDirectory, serve};

/// What the gateway needs before it can serve.
pub(crate) struct Prepared {
    listener: TcpListener,
    host_key: PrivateKey,
    gateway_key: PublicKey,
}

/// Reads the keys and listens; the port that was found is noted in `settings`, for it is advertised.
pub(crate) async fn prepare(
    listen: std::net::IpAddr,
    settings: &mut SshGateway,
) -> Result<Prepared, RunError> {
    let failed = |reason: String| RunError::Part { part: "the SSH gateway", reason };
    let gateway_key =
        parse_authorized_line(&settings.public_key).map_err(|e| failed(format!("SSH_PUBLIC_KEY: {e}")))?;
    let path = settings.host_key.display();
    let host_key =
        load_or_create(&settings.host_key).map_err(|e| failed(format!("the host key {path}: {e}")))?;
    let taken = |source| RunError::PortTaken { port: settings.port, source };
    let listener = TcpListener::bind(SocketAddr::new(listen, settings.port)).await.map_err(taken)?;
    settings.port = listener.local_addr().map_err(taken)?.port();
    Ok(Prepared { listener, host_key, gateway_key })
}

/// Serves until `stop`.
pub(crate) async fn run(node: Arc<Node>, prepared: Prepared, stop: CancellationToken) {
    let Prepared { listener, host_key, gateway_key } = prepared;
    tokio::select! {
        result = serve(listener, host_key, gateway_key, Arc::new(Directory(node))) => {
            if let Err(error) = result {
                tracing::error!(%error, "the SSH gateway ended");
            }
        }
        () = stop.cancelled() => {}
    }
}

struct Directory(Arc<Node>);

impl SandboxDirectory for Directory {
    fn ssh_target(&self, id: &str) -> Result<SocketAddr, RefusalReason> {
        let id = sandbox_id(id).map_err(|error| RefusalReason::new(error.to_string()))?;
        let toolbox = daemon_address(&self.0, &id).map_err(|error| RefusalReason::new(error.message()))?;
        Ok(SocketAddr::new(toolbox.ip(), DAEMON_SSH_PORT))
    }
}
