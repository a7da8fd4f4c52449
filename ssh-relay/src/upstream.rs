//! The connection to the server that a client is carried to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pinfold_ssh_transport::{HangUp, preferred};
use russh::client::{self, Handler, PacketSender, Session};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use tokio::net::TcpStream;

use crate::flow::{Inlet, Outlet, flow};
use crate::gated::Gated;
use crate::refusal::{RefusalReason, announces_host_keys};

/// Connecting and authenticating take no longer than this (runner contract 10.1).
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a relay proves itself upstream.
#[derive(Clone)]
pub enum Credential {
    /// By password.
    Password(String),
    /// By key.
    Key(Arc<PrivateKey>),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Key(_) => "Key",
        })
    }
}

/// Where a client is carried to. The host key is not checked: the network in between is the platform's own (runner contract 10.1).
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`; a name is resolved.
    pub address: String,
    /// The user name to log in with.
    pub user: String,
    /// The proofs to log in with, until one is accepted.
    pub credentials: Vec<Credential>,
    /// What the client's user calls it, for messages.
    pub name: String,
}

/// An authenticated upstream connection. Dropping it cuts the connection off.
pub(crate) struct Upstream {
    pub(crate) to: PacketSender,
    pub(crate) from: Outlet,
    _hang_up: HangUp,
}

/// Connects to `target` and logs in.
pub(crate) async fn connect(target: &Target) -> Result<Upstream, RefusalReason> {
    match tokio::time::timeout(TIMEOUT, attempt(target)).await {
        Ok(connected) => connected,
        Err(_) => {
            Err(RefusalReason(format!("{} did not answer within {} s", target.name, TIMEOUT.as_secs())))
        }
    }
}

async fn attempt(target: &Target) -> Result<Upstream, RefusalReason> {
    let unreachable =
        |error: &dyn std::fmt::Display| RefusalReason(format!("{} cannot be reached: {error}", target.name));
    let stream = TcpStream::connect(&target.address).await.map_err(|e| unreachable(&e))?;
    let hang_up = HangUp::of(&stream).map_err(|e| unreachable(&e))?;
    let (inlet, outlet, gate) = flow();
    let stream = Gated::new(stream, gate).map_err(|e| unreachable(&e))?;
    let mut handle = client::connect_stream(Arc::new(protocol()), stream, Receiver(inlet))
        .await
        .map_err(|e| unreachable(&e))?;
    for credential in &target.credentials {
        let answer = match credential {
            Credential::Password(password) => handle.authenticate_password(&target.user, password).await,
            Credential::Key(key) => {
                let hash = key.algorithm().is_rsa().then_some(HashAlg::Sha512);
                let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
                handle.authenticate_publickey(&target.user, key).await
            }
        };
        if answer.map_err(|e| unreachable(&e))?.success() {
            return Ok(Upstream { to: handle.packets(), from: outlet, _hang_up: hang_up });
        }
    }
    Err(RefusalReason(format!("{} does not accept this gateway", target.name)))
}

fn protocol() -> client::Config {
    client::Config {
        // Windows are the two ends' own; this only bounds what may arrive while keys are exchanged.
        window_size: 1 << 30,
        channel_buffer_size: 64,
        inactivity_timeout: None,
        keepalive_interval: None,
        preferred: preferred(),
        nodelay: true,
        ..Default::default()
    }
}

/// Takes what upstream sends.
struct Receiver(Inlet);

impl Handler for Receiver {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &russh::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }

    fn connection_packets(&self) -> bool {
        true
    }

    async fn connection_packet(&mut self, packet: Bytes, _session: &mut Session) -> Result<(), russh::Error> {
        if !announces_host_keys(&packet) {
            self.0.put(packet);
        }
        Ok(())
    }
}
