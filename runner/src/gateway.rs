//! The SSH gateway's wiring: its keys, its listener, and where sandboxes are.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pinfold_proto::well_known::DAEMON_SSH_PORT;
use pinfold_ssh_relay::{RefusalReason, load_or_create, parse_authorized_line};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::toolbox::daemon_address;
use crate::config::SshGateway;
use crate::error::RunError;
use crate::node::{Node, sandbox_id};
use crate::ssh_gateway::{Keys, SandboxDirectory, serve};

/// What the gateway needs before it can serve.
pub(crate) struct Prepared {
    listener: TcpListener,
    keys: Keys,
}

/// Reads the keys and listens; what is found out is noted in `settings`: the port, which is advertised, and the line that
/// new sandboxes get.
pub(crate) async fn prepare(
    listen: std::net::IpAddr,
    settings: &mut SshGateway,
) -> Result<Prepared, RunError> {
    let failed = |reason: String| RunError::Part { part: "the SSH gateway", reason };
    let gateway =
        parse_authorized_line(&settings.public_key).map_err(|e| failed(format!("SSH_PUBLIC_KEY: {e}")))?;
    let key =
        |path: &Path| load_or_create(path).map_err(|e| failed(format!("the key {}: {e}", path.display())));
    let host = key(&settings.host_key)?;
    let no_password = settings.sandboxes_take_key;
    let sandboxes = if no_password || settings.sandbox_key.exists() {
        Some(Arc::new(key(&settings.sandbox_key)?))
    } else {
        None
    };
    if let Some(key) = sandboxes.as_ref().filter(|_| no_password) {
        let line = key.public_key().to_openssh();
        settings.sandbox_line = Some(line.map_err(|e| failed(format!("the sandboxes' key: {e}")))?);
    }
    let taken = |source| RunError::PortTaken { port: settings.port, source };
    let listener = TcpListener::bind(SocketAddr::new(listen, settings.port)).await.map_err(taken)?;
    settings.port = listener.local_addr().map_err(taken)?.port();
    let keys = Keys { host, gateway, sandboxes, no_password };
    Ok(Prepared { listener, keys })
}

/// Serves until `stop`.
pub(crate) async fn run(node: Arc<Node>, prepared: Prepared, stop: CancellationToken) {
    let Prepared { listener, keys } = prepared;
    tokio::select! {
        result = serve(listener, keys, Arc::new(Directory(node))) => {
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
