//! What can be set about the SSH server.

use std::time::Duration;

/// Settings of [`crate::serve`]; the default is the contract's.
#[derive(Debug, Clone)]
pub struct Config {
    /// Accept the password `sandbox-ssh` (toolbox contract 19.1), which the platform's gateways use. Off leaves public keys only.
    pub well_known_password: bool,
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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            well_known_password: true,
            max_connections: 512,
            max_channels: 512,
            max_listeners: 128,
            login_grace: Duration::from_secs(120),
            keepalive: Duration::from_secs(30),
        }
    }
}
