//! The public SSH gateway (control-plane contract, section 18): an access token as user name in, the sandbox's runner out.
//!
//! Any proof will do, for the token is the secret. What a token stands for is a [`TokenValidator`]'s to say; it is also told, now and then, that a sandbox's SSH
//! connection is in use. A token revoked later does not end connections that it opened.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pinfold_ssh_relay::{
    Credential, Decision, GatewayError, Limits, MethodKind, Policy, PrivateKey, Proof, RefusalReason, Target,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How often an open connection counts as activity (control-plane contract, section 18).
const ACTIVITY_INTERVAL: Duration = Duration::from_secs(45);

/// Where a token leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayTarget {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// `domain:port` of its runner's SSH gateway.
    pub runner: String,
}

/// Knows the access tokens.
pub trait TokenValidator: Send + Sync + 'static {
    /// What `token` stands for. `Err(Rejection::Token)` refuses the login; `Err(Rejection::Sandbox)` lets the client in and refuses what it asks for.
    fn resolve(&self, token: &str) -> impl Future<Output = Result<GatewayTarget, Rejection>> + Send;

    /// Called at once when a connection to the sandbox opens and every 45 s while it lasts.
    fn active(&self, sandbox_id: &str) -> impl Future<Output = ()> + Send;
}

/// Why a token leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The token is unknown, expired or revoked.
    Token(RefusalReason),
    /// The token is good, but its sandbox cannot be reached now: it is stopped, or in the middle of something.
    Sandbox(RefusalReason),
}

/// Serves the gateway on `listener` until it fails, showing `gateway_key` to runners; dropping the future cuts every connection off.
pub async fn serve(
    listener: TcpListener,
    host_key: PrivateKey,
    gateway_key: PrivateKey,
    validator: Arc<impl TokenValidator>,
) -> Result<(), GatewayError> {
    let gateway = Gateway { gateway_key: Arc::new(gateway_key), validator };
    pinfold_ssh_relay::serve(listener, host_key, Arc::new(gateway), Limits::default()).await
}

struct Gateway<V> {
    gateway_key: Arc<PrivateKey>,
    validator: Arc<V>,
}

/// A client that was let in, until its connection ends.
struct Admitted {
    leads_to: Result<GatewayTarget, RefusalReason>,
    _activity: Option<Activity>,
}

/// Tells of activity until dropped.
struct Activity(JoinHandle<()>);

impl Activity {
    fn of<V: TokenValidator>(validator: &Arc<V>, sandbox_id: &str) -> Self {
        let (validator, sandbox_id) = (Arc::clone(validator), sandbox_id.to_owned());
        Self(tokio::spawn(async move {
            let mut interval = tokio::time::interval(ACTIVITY_INTERVAL);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                validator.active(&sandbox_id).await;
            }
        }))
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<V: TokenValidator> Policy for Gateway<V> {
    type Grant = Admitted;

    fn methods(&self) -> &[MethodKind] {
        &[MethodKind::None, MethodKind::PublicKey, MethodKind::Password, MethodKind::KeyboardInteractive]
    }

    async fn admit(&self, user: &str, proof: Proof<'_>, _peer: SocketAddr) -> Decision<Admitted> {
        match self.validator.resolve(user).await {
            Ok(target) => {
                let _activity = match proof {
                    Proof::OfferedKey(_) => None,
                    _ => Some(Activity::of(&self.validator, &target.sandbox_id)),
                };
                Decision::Accept(Admitted { leads_to: Ok(target), _activity })
            }
            Err(Rejection::Sandbox(reason)) => {
                Decision::Accept(Admitted { leads_to: Err(reason), _activity: None })
            }
            Err(Rejection::Token(reason)) => Decision::Refuse(reason),
        }
    }

    async fn target(&self, admitted: &Admitted) -> Result<Target, RefusalReason> {
        let target = admitted.leads_to.clone()?;
        Ok(Target {
            address: target.runner,
            credentials: vec![Credential::Key(Arc::clone(&self.gateway_key))],
            name: format!("sandbox {}", target.sandbox_id),
            user: target.sandbox_id,
        })
    }
}
