//! What can be set about the SSH server.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use pinfold_settings::Networks;
use russh::keys::PublicKey;

/// Public keys, as `authorized_keys` lists them: one a line, without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedKeys(Vec<PublicKey>);

/// A line that is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not a public key in OpenSSH's format")]
pub struct ParseKeysError(usize);

impl FromStr for AuthorizedKeys {
    type Err = ParseKeysError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let key = |(n, line)| PublicKey::from_openssh(line).map_err(|_| ParseKeysError(n + 1));
        lines.map(key).collect::<Result<_, _>>().map(Self)
    }
}

/// Settings of [`crate::serve`]; the default is the contract's.
#[derive(Debug, Clone)]
pub struct Config {
    /// Accept the password `sandbox-ssh` (toolbox contract 19.1), which the platform's gateways use. Off leaves public keys only.
    pub well_known_password: bool,
    /// The public keys that are let in; absent means any, as the contract has it.
    pub authorized_keys: Option<Arc<AuthorizedKeys>>,
    /// Who may connect besides the loopback; absent means anybody.
    pub peers: Option<Arc<Networks>>,
    /// Connections served at once; more are closed before a byte is exchanged.
    pub max_connections: usize,
    /// Channels open at once on one connection.
    pub max_channels: usize,
    /// Ports and sockets listened on for one connection.
    pub max_listeners: usize,
    /// SFTP sessions served at once. Each has a thread for life, of the runtime's for blocking work: it should be far less than those.
    pub max_sftp: usize,
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
            authorized_keys: None,
            peers: None,
            max_connections: 512,
            max_channels: 512,
            max_listeners: 128,
            max_sftp: 64,
            login_grace: Duration::from_secs(120),
            keepalive: Duration::from_secs(30),
            rekey_bytes: 1 << 30,
        }
    }
}

impl Config {
    /// Whether a client that has this key is let in.
    pub(crate) fn authorizes(&self, key: &PublicKey) -> bool {
        let known = |keys: &AuthorizedKeys| keys.0.iter().any(|known| known.key_data() == key.key_data());
        self.authorized_keys.as_deref().is_none_or(known)
    }

    /// Whether a connection from `peer` is taken at all.
    pub(crate) fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() || self.peers.as_ref().is_none_or(|peers| peers.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGI1GcWuQlLOlTfqaHbxI9tG4Z5TZOAbSkZYsP+qzk8D one";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFs0/6AbZ/3amPk0Tsx2n7lr2HO5qoSoqWxJqW/2J25q two";

    #[test]
    fn any_key_or_those_that_are_listed() {
        let key = |line| PublicKey::from_openssh(line).unwrap();
        assert!(Config::default().authorizes(&key(ONE)));
        let listed: AuthorizedKeys = format!("# whose\n\n{ONE}\n").parse().unwrap();
        let config = Config { authorized_keys: Some(Arc::new(listed)), ..Config::default() };
        assert!(config.authorizes(&key(ONE)) && !config.authorizes(&key(TWO)));
        // The comment is no part of the key.
        let (bare, _) = ONE.rsplit_once(' ').unwrap();
        assert!(config.authorizes(&key(bare)));
        assert_eq!(format!("{ONE}\nnonsense").parse::<AuthorizedKeys>(), Err(ParseKeysError(2)));
    }

    #[test]
    fn only_named_peers_and_the_loopback() {
        let config = Config { peers: Some(Arc::new("203.0.113.1".parse().unwrap())), ..Config::default() };
        for (peer, expected) in [("203.0.113.1", true), ("203.0.113.2", false), ("::ffff:127.0.0.1", true)] {
            assert_eq!(config.admits(peer.parse().unwrap()), expected, "{peer}");
        }
    }
}
