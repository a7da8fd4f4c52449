//! What can be set about the SSH server.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pinfold_settings::Networks;

/// Settings of [`crate::serve`]; the default is the contract's.
#[derive(Debug, Clone)]
pub struct Config {
    /// Accept the password `sandbox-ssh` (toolbox contract 19.1), which the platform's gateways use. Off leaves public keys only.
    pub well_known_password: bool,
    /// Who may connect besides the loopback; absent means anybody.
    pub peers: Option<Arc<Networks>>,
    /// Connections served at once; more are closed before a byte is exchanged.
    pub max_connections: usize,
    /// Channels open at once on one connection.
    pub max_channels: usize,
    /// Ports and sockets listened on for one connection.
    pub max_listeners: usize,
    /// How long a client may take to authenticate.
    pub login_grace: Duration,
    /// How often a silent client is asked whether it is still there; after three questions without a sign of life the connection is lost.
    pub keepalive: Duration,
    /// Keys are changed after this many bytes either way (RFC 4253, section 9, advises 1 GiB), and after an hour.
    pub rekey_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            well_known_password: true,
            peers: None,
            max_connections: 512,
            max_channels: 512,
            max_listeners: 128,
            login_grace: Duration::from_secs(120),
            keepalive: Duration::from_secs(30),
            rekey_bytes: 1 << 30,
        }
    }
}

impl Config {
    /// Whether a connection from `peer` is taken at all.
    pub(crate) fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() || self.peers.as_ref().is_none_or(|peers| peers.contains(peer))
    }
}
