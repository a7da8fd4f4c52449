//! A listener whose clients are carried on by a [`Policy`]'s word.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pinfold_ssh_transport::{HangUp, accept, preferred};
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, Handle, Handler, PublicKeyOffer, Response, Session, VerifiedPublicKey};
use russh::{Disconnect, MethodKind, MethodSet, SshId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::flow::{Inlet, Outlet, flow};
use crate::gated::Gated;
use crate::refusal::RefusalReason;
use crate::relay::Relay;
use crate::upstream::Target;

/// What a client finds behind the gateway speaks OpenSSH's extensions, and some clients use them only if told so here.
const IDENTITY: &str = concat!("SSH-2.0-OpenSSH_9.9 PinfoldGateway_", env!("CARGO_PKG_VERSION"));
/// Messages that may wait for a session's task.
const QUEUED_MESSAGES: usize = 64;

/// What a client shows to be let in.
#[derive(Debug)]
#[non_exhaustive]
pub enum Proof<'a> {
    /// Nothing (the method `none`).
    None,
    /// A password, or an answer to a question.
    Password,
    /// A key that it says is its own; it will have to show that it is. Acceptance here lets nobody in yet.
    OfferedKey(&'a PublicKey),
    /// A key that it has shown to be its own.
    Key(&'a PublicKey),
}

/// A policy's word on one proof.
#[derive(Debug)]
pub enum Decision<G> {
    /// Let in, with what the policy will need to know to carry it on.
    Accept(G),
    /// This proof does not do; another might.
    Another,
    /// Nothing will do; the client's user is told why, and the connection ends.
    Refuse(RefusalReason),
}

/// Who may pass, and where to.
pub trait Policy: Send + Sync + 'static {
    /// What is known of a client that was let in. Dropped when its connection ends.
    type Grant: Send + Sync + 'static;

    /// Methods to offer; `none` need not be among them.
    fn methods(&self) -> &[MethodKind];

    /// Whether `user` is let in on this proof.
    fn admit(
        &self,
        user: &str,
        proof: Proof<'_>,
        peer: SocketAddr,
    ) -> impl Future<Output = Decision<Self::Grant>> + Send;

    /// Where a client that was let in is carried to. Called once, right after it was.
    fn target(&self, grant: &Self::Grant) -> impl Future<Output = Result<Target, RefusalReason>> + Send;
}

/// How much a gateway serves.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more are closed before a byte is exchanged.
    pub connections: usize,
    /// How long a client may take to be let in.
    pub login: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 2048, login: Duration::from_secs(60) }
    }
}

/// The gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The listener is not usable.
    #[error("could not watch the SSH gateway's listener: {0}")]
    Listener(#[source] std::io::Error),
}

/// Serves a gateway on `listener` until it fails; dropping the future cuts every connection off.
pub async fn serve<P: Policy>(
    listener: TcpListener,
    host_key: PrivateKey,
    policy: Arc<P>,
    limits: Limits,
) -> Result<(), GatewayError> {
    listener.local_addr().map_err(GatewayError::Listener)?;
    let protocol = Arc::new(protocol(host_key, policy.methods()));
    let login = limits.login;
    let converse =
        move |stream, peer| converse(stream, peer, Arc::clone(&protocol), Arc::clone(&policy), login);
    match accept(listener, limits.connections, |_| true, converse).await {}
}

fn protocol(host_key: PrivateKey, methods: &[MethodKind]) -> russh::server::Config {
    russh::server::Config {
        server_id: SshId::Standard(IDENTITY.into()),
        methods: MethodSet::from(methods),
        auth_rejection_time: Duration::from_millis(300),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 12,
        keys: vec![host_key],
        // Windows are the two ends' own; this only bounds what may arrive while keys are exchanged.
        window_size: 1 << 30,
        event_buffer_size: QUEUED_MESSAGES,
        preferred: preferred(),
        inactivity_timeout: None,
        // Keepalives are the ends' too, and answers to ours could not be told from answers to theirs.
        keepalive_interval: None,
        nodelay: true,
        ..Default::default()
    }
}

async fn converse<P: Policy>(
    stream: TcpStream,
    peer: SocketAddr,
    protocol: Arc<russh::server::Config>,
    policy: Arc<P>,
    limit: Duration,
) -> Result<(), russh::Error> {
    let _hang_up = HangUp::of(&stream)?;
    let (inlet, outlet, gate) = flow();
    let stream = Gated::new(stream, gate)?;
    let (admitted, mut is_admitted) = watch::channel(false);
    let (handle, own_handle) = watch::channel(None);
    let client = Client {
        policy,
        peer,
        admitted,
        own_handle,
        grant: None,
        refused: None,
        inlet,
        outlet: Some(outlet),
        relay: None,
    };
    let login = async {
        let session = russh::server::run_stream(protocol, stream, client).await?;
        handle.send_replace(Some(session.handle()));
        // An error means that the session is over; it says why itself.
        let _ = is_admitted.wait_for(|yes| *yes).await;
        Ok::<_, russh::Error>(session)
    };
    tokio::time::timeout(limit, login).await.map_err(|_| russh::Error::ConnectionTimeout)??.await
}

/// One client: first a stranger, then the owner of a relay.
struct Client<P: Policy> {
    policy: Arc<P>,
    peer: SocketAddr,
    admitted: watch::Sender<bool>,
    own_handle: watch::Receiver<Option<Handle>>,
    grant: Option<Arc<P::Grant>>,
    /// Why nothing will do; said once.
    refused: Option<RefusalReason>,
    inlet: Inlet,
    outlet: Option<Outlet>,
    relay: Option<Relay>,
}

impl<P: Policy> Client<P> {
    async fn admit(&mut self, user: &str, proof: Proof<'_>) -> Auth {
        let offered_only = matches!(proof, Proof::OfferedKey(_));
        match self.policy.admit(user, proof, self.peer).await {
            Decision::Accept(grant) => {
                if !offered_only {
                    self.grant = Some(Arc::new(grant));
                }
                Auth::Accept
            }
            Decision::Another => Auth::reject(),
            Decision::Refuse(reason) => {
                tracing::info!(peer = %self.peer, %reason, "refused an SSH client");
                let handle = self.own_handle.borrow().clone();
                if let Some(handle) = handle {
                    // Goes out behind the rejection; the queue is empty before anybody is let in.
                    let code = Disconnect::NoMoreAuthMethodsAvailable;
                    let _ = handle.disconnect(code, reason.0.clone(), "en".into()).await;
                }
                self.refused = Some(reason);
                Auth::Reject { proceed_with_methods: Some(MethodSet::empty()), partial_success: false }
            }
        }
    }
}

impl<P: Policy> Handler for Client<P> {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, russh::Error> {
        Ok(self.admit(user, Proof::None).await)
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, russh::Error> {
        Ok(self.admit(user, Proof::Password).await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        _response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.admit(user, Proof::Password).await)
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.admit(user, Proof::OfferedKey(offer.public_key)).await)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(self.admit(user, Proof::Key(key.public_key)).await)
    }

    fn rejection_banner(&mut self) -> Option<String> {
        self.refused.take().map(|reason| format!("{reason}\r\n"))
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), russh::Error> {
        let (Some(grant), Some(outlet)) = (&self.grant, self.outlet.take()) else {
            return Err(russh::Error::Inconsistent);
        };
        self.admitted.send_replace(true);
        let (policy, grant) = (Arc::clone(&self.policy), Arc::clone(grant));
        let target = async move { policy.target(&grant).await };
        self.relay = Some(Relay::start(session.handle(), outlet, target));
        Ok(())
    }

    fn connection_packets(&self) -> bool {
        true
    }

    async fn connection_packet(&mut self, packet: Bytes, _session: &mut Session) -> Result<(), russh::Error> {
        self.inlet.put(packet);
        Ok(())
    }
}
