//! The public SSH gateway's wiring: its keys, its listener, and what tokens mean to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use pinfold_proto::control::sandbox::SandboxState;
use pinfold_ssh_relay::{KeyError, PrivateKey, RefusalReason, authorized_line_base64, load_or_create};
use tokio::net::TcpListener;

use crate::core::Core;
use crate::sandbox::plan::wire_state;
use crate::ssh_gateway::{GatewayTarget, Rejection, TokenValidator, serve};
use crate::start::StartError;
use crate::store::tokens::Kind;

/// Where the SSH gateways of runners listen that do not say otherwise (runner contract 1.6).
const RUNNER_SSH_PORT: u16 = 2220;

/// What the gateway needs before it can serve.
pub(crate) struct Prepared {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    host_key: PrivateKey,
    gateway_key: PrivateKey,
    /// What runners have to trust: the base64 of an `authorized_keys` line.
    pub(crate) public_key: String,
}

/// Binds the listener and reads or makes the keys.
pub(crate) async fn prepare(address: SocketAddr, dir: &Path) -> Result<Prepared, StartError> {
    let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::SshPortInUse { address },
        _ => StartError::Listen { address, setting: "PINFOLD_SSH_PORT", source },
    })?;
    let bound = listener.local_addr().map_err(|source| StartError::Listen {
        address,
        setting: "PINFOLD_SSH_PORT",
        source,
    })?;
    let bad = |path: PathBuf| move |error: KeyError| StartError::SshKey { path, reason: error.to_string() };
    let (host, own) = (dir.join("ssh_host_key"), dir.join("ssh_gateway_key"));
    let host_key = load_or_create(&host).map_err(bad(host))?;
    let gateway_key = load_or_create(&own).map_err(bad(own.clone()))?;
    let public_key = authorized_line_base64(&gateway_key).map_err(bad(own))?;
    Ok(Prepared { listener, address: bound, host_key, gateway_key, public_key })
}

/// Serves until the control plane stops.
pub(crate) async fn run(core: Arc<Core>, prepared: Prepared) {
    let validator = Arc::new(Validator(Arc::downgrade(&core)));
    let stop = core.stop.clone();
    drop(core);
    tokio::select! {
        result = serve(prepared.listener, prepared.host_key, prepared.gateway_key, validator) => {
            if let Err(error) = result {
                tracing::error!(%error, "the SSH gateway ended");
            }
        }
        () = stop.cancelled() => {}
    }
}

/// Connections outlive nothing of ours, so they hold the core weakly.
struct Validator(Weak<Core>);

impl TokenValidator for Validator {
    async fn resolve(&self, token: &str) -> Result<GatewayTarget, Rejection> {
        let refuse = |why: String| Rejection::Sandbox(RefusalReason::new(why));
        let unknown =
            || Rejection::Token(RefusalReason::new("the access token is unknown, expired or revoked"));
        let core = self.0.upgrade().ok_or_else(unknown)?;
        let token = core.tokens.find(token, Kind::Ssh).ok_or_else(unknown)?;
        let record = core.directory.find(&token.sandbox_id).ok_or_else(unknown)?.record();
        if record.state != SandboxState::Started {
            let state = wire_state(record.state, record.desired);
            return Err(refuse(format!("the sandbox {} is {state}; start it first", record.name)));
        }
        let unreachable = || refuse("the sandbox's runner has not said where it is reached".to_owned());
        let health = core.runner_of(&record).and_then(|runner| runner.health).ok_or_else(unreachable)?;
        let domain = health.domain.ok_or_else(unreachable)?;
        let host = domain.split(':').next().unwrap_or_default();
        let runner = format!("{host}:{}", health.ssh_port.unwrap_or(RUNNER_SSH_PORT));
        Ok(GatewayTarget { sandbox_id: record.id.clone(), runner })
    }

    async fn active(&self, sandbox_id: &str) {
        if let Some(core) = self.0.upgrade()
            && let Some(handle) = core.directory.find(sandbox_id)
        {
            core.touch(&handle);
        }
    }
}
