//! The runner's SSH gateway (runner contract, section 10): the public gateway's key in, a sandbox's SSH server out.
//!
//! The user name is the sandbox's id; the one key that is let in is the public gateway's. Messages are carried by `pinfold_ssh_relay`, one upstream connection
//! for each client. Which sandbox is where is a [`SandboxDirectory`]'s to say, at the moment a client is let in.

use std::net::SocketAddr;
use std::sync::Arc;

use pinfold_ssh_relay::{
    Credential, Decision, GatewayError, Limits, MethodKind, Policy, PrivateKey, Proof, PublicKey,
    RefusalReason, Target,
};
use tokio::net::TcpListener;

/// What the sandbox's daemon lets in (runner contract 10.1).
const DAEMON_USER: &str = "daytona";
const DAEMON_PASSWORD: &str = "sandbox-ssh";

/// Knows where sandboxes are.
pub trait SandboxDirectory: Send + Sync + 'static {
    /// The address of the SSH server (port 22220) of the sandbox `id`, or why there is none: unknown, stopped, starting. The reason is shown to the user.
    fn ssh_target(&self, id: &str) -> Result<SocketAddr, RefusalReason>;
}

/// The gateway's keys.
pub struct Keys {
    /// What the gateway shows of itself.
    pub host: PrivateKey,
    /// Who is let in.
    pub gateway: PublicKey,
    /// What sandboxes let in instead of the password, if this runner has such a key, or once had.
    pub sandboxes: Option<Arc<PrivateKey>>,
    /// Whether it is tried alone, and the password never sent.
    pub no_password: bool,
}

impl Keys {
    /// How to log in to a sandbox. The contract's password comes first where it is not turned off; a sandbox that was made while it was takes the key.
    fn credentials(&self) -> Vec<Credential> {
        let password = (!self.no_password).then(|| Credential::Password(DAEMON_PASSWORD.to_owned()));
        password.into_iter().chain(self.sandboxes.clone().map(Credential::Key)).collect()
    }
}

/// Serves the gateway on `listener` until it fails, letting in only the holder of the gateway's key; dropping the future cuts every connection off.
pub async fn serve(
    listener: TcpListener,
    keys: Keys,
    directory: Arc<impl SandboxDirectory>,
) -> Result<(), GatewayError> {
    let host_key = keys.host.clone();
    pinfold_ssh_relay::serve(listener, host_key, Arc::new(Gateway { keys, directory }), Limits::default())
        .await
}

struct Gateway<D> {
    keys: Keys,
    directory: Arc<D>,
}

impl<D: SandboxDirectory> Policy for Gateway<D> {
    /// The sandbox's id.
    type Grant = String;

    fn methods(&self) -> &[MethodKind] {
        &[MethodKind::PublicKey]
    }

    async fn admit(&self, user: &str, proof: Proof<'_>, _peer: SocketAddr) -> Decision<String> {
        match proof {
            // Type and bytes; comments do not count.
            Proof::OfferedKey(key) | Proof::Key(key) if key.key_data() == self.keys.gateway.key_data() => {
                Decision::Accept(user.to_owned())
            }
            _ => Decision::Another,
        }
    }

    async fn target(&self, sandbox: &String) -> Result<Target, RefusalReason> {
        let address = self.directory.ssh_target(sandbox)?;
        Ok(Target {
            address: address.to_string(),
            user: DAEMON_USER.to_owned(),
            credentials: self.keys.credentials(),
            name: format!("sandbox {sandbox}"),
        })
    }
}
