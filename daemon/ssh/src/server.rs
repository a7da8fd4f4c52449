//! Accepting connections, and who may have one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pinfold_spawn::Sandbox;
use pinfold_ssh_transport::keys::GenerateError;
use pinfold_ssh_transport::{HangUp, accept, preferred};
use russh::keys::PublicKey;
use russh::server::{Auth, Handler, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Limits, MethodKind, MethodSet, SshId};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::Config;
use crate::connection::{Connection, Served, Violation};
use crate::host_key;

/// The platform's gateways use it; the toolbox contract (19.1) fixes it.
const WELL_KNOWN_PASSWORD: &str = "sandbox-ssh";
/// Clients (npm's ssh2, AsyncSSH) use OpenSSH's extensions, and its order of a link's two names, only with a server that calls itself so; this one speaks them.
const IDENTITY: &str = concat!("SSH-2.0-OpenSSH_9.9 Pinfold_", env!("CARGO_PKG_VERSION"));
/// Messages that may wait for the session task.
const QUEUED_MESSAGES: usize = 64;
/// One read of the socket can hold several packets.
const READ_BUFFER: usize = 256 << 10;
/// Keys are changed at least this often.
const REKEY_TIME: Duration = Duration::from_secs(3600);

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no host key.
    #[error(transparent)]
    HostKey(#[from] GenerateError),
    /// The listener is not usable.
    #[error("could not watch the SSH listener: {0}")]
    Listener(#[source] std::io::Error),
}

/// Serves SSH on `listener` until it fails; dropping the future closes the listener and hangs up every connection.
///
/// Contract: toolbox, section 19.
pub async fn serve(listener: TcpListener, sandbox: Sandbox, config: Config) -> Result<(), ServeError> {
    listener.local_addr().map_err(ServeError::Listener)?;
    let key = {
        let home = Arc::clone(&sandbox.home);
        // Writing the key may wait for a disk.
        tokio::task::spawn_blocking(move || host_key::load_or_create(&home))
            .await
            .map_err(|e| ServeError::Listener(e.into()))??
    };
    let protocol = Arc::new(protocol(key, &config));
    let config = Arc::new(config);
    let (limit, admits) = (config.max_connections, Arc::clone(&config));
    let sftp = Arc::new(Semaphore::new(config.max_sftp));
    let converse = move |stream, peer| {
        let served =
            Served { sandbox: sandbox.clone(), config: Arc::clone(&config), sftp: Arc::clone(&sftp) };
        converse(stream, peer, Arc::clone(&protocol), served)
    };
    match accept(listener, limit, move |peer| admits.admits(peer.ip()), converse).await {}
}

/// The ways to log in.
fn methods(config: &Config) -> MethodSet {
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    if config.well_known_password {
        methods.push(MethodKind::Password);
    }
    methods
}

fn protocol(key: russh::keys::PrivateKey, config: &Config) -> russh::server::Config {
    russh::server::Config {
        server_id: SshId::Standard(IDENTITY.into()),
        methods: methods(config),
        auth_rejection_time: Duration::from_millis(500),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 12,
        keys: vec![key],
        // Channels, and so windows, are not russh's; this is only its bound on what may arrive while keys are exchanged.
        window_size: 1 << 30,
        maximum_packet_size: crate::channel::MAX_PACKET - 1,
        event_buffer_size: QUEUED_MESSAGES,
        limits: Limits::new(config.rekey_bytes, config.rekey_bytes, REKEY_TIME),
        preferred: preferred(),
        inactivity_timeout: None,
        keepalive_interval: Some(config.keepalive),
        keepalive_max: 3,
        nodelay: true,
        ..Default::default()
    }
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    protocol: Arc<russh::server::Config>,
    served: Served,
) -> Result<(), Violation> {
    stream.set_nodelay(true).map_err(russh::Error::from)?;
    let _hang_up = HangUp::of(&stream).map_err(russh::Error::from)?;
    let local = stream.local_addr().map_err(russh::Error::from)?;
    let (authenticated, mut is_authenticated) = watch::channel(false);
    let grace = served.config.login_grace;
    let client = Client { ends: (peer, local), served, authenticated, connection: None };
    let login = async {
        let stream = BufReader::with_capacity(READ_BUFFER, stream);
        let session = russh::server::run_stream(protocol, stream, client).await?;
        // An error means that the session is over; it says why itself.
        let _ = is_authenticated.wait_for(|yes| *yes).await;
        Ok::<_, Violation>(session)
    };
    let session = tokio::time::timeout(grace, login).await.map_err(|_| Violation::LoginGrace(grace))??;
    session.await
}

/// One client: first a stranger, then the owner of a [`Connection`].
struct Client {
    ends: (SocketAddr, SocketAddr),
    served: Served,
    authenticated: watch::Sender<bool>,
    connection: Option<Connection>,
}

impl Client {
    fn judge(&self, key: &PublicKey) -> Auth {
        if self.served.config.authorizes(key) { Auth::Accept } else { Auth::reject() }
    }
}

impl Handler for Client {
    type Error = Violation;

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Violation> {
        let accepted = self.served.config.well_known_password && password == WELL_KNOWN_PASSWORD;
        // Whoever mistyped it may try again, as often as the limit allows.
        let again = Some(methods(&self.served.config));
        Ok(if accepted {
            Auth::Accept
        } else {
            Auth::Reject { proceed_with_methods: again, partial_success: false }
        })
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Violation> {
        Ok(self.judge(offer.public_key))
    }

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Violation> {
        Ok(self.judge(key.public_key))
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Violation> {
        self.connection = Some(Connection::new(session.handle(), self.served.clone(), self.ends));
        self.authenticated.send_replace(true);
        Ok(())
    }

    fn connection_packets(&self) -> bool {
        true
    }

    async fn connection_packet(&mut self, packet: Bytes, session: &mut Session) -> Result<(), Violation> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if let Some(answer) = connection.receive(packet)? {
            session.packet(&answer)?;
        }
        Ok(())
    }
}
