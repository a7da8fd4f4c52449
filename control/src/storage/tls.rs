//! The object store over TLS, for clients that refuse anything else: Python's SDK does (control-plane contract 14.4).
//!
//! The authority that signs is made at the first start and kept beside the database; clients have to trust it. Certificates are made as they are asked for, by
//! name or by the address that was dialled, and held in memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use pinfold_http::Closing;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{Acceptor, ClientHello};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use crate::keys::secret_file;

/// The certificate that clients have to trust, in the data directory.
pub(crate) const CA_FILE: &str = "storage-ca.pem";
/// Its key.
const CA_KEY_FILE: &str = "storage-ca.key";
/// A client that does not finish its handshake holds a task; not for long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Names that certificates are held for. A client may ask for any.
const MAX_NAMES: usize = 64;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Who signs, and what was signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    made: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority of a data directory, made if it has none.
    pub(crate) fn load(dir: &Path) -> Result<Self, Failed> {
        let made = KeyPair::generate()?.serialize_pem();
        let key = KeyPair::from_pem(&secret_file(&dir.join(CA_KEY_FILE), || made)?)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Pinfold build contexts");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let path = dir.join(CA_FILE);
        if !path.exists() {
            std::fs::write(path, params.self_signed(&key)?.pem())?;
        }
        Ok(Self { issuer: Issuer::new(params, key), made: Mutex::default() })
    }

    /// What to answer a client that asked for this name.
    fn config(&self, name: &str) -> Result<Arc<ServerConfig>, Failed> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(name) {
            return Ok(config.clone());
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.use_authority_key_identifier_extension = true;
        let chain = vec![params.signed_by(&key, &self.issuer)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let config = Arc::new(config);
        if made.len() >= MAX_NAMES {
            made.clear();
        }
        made.insert(name.to_owned(), config.clone());
        Ok(config)
    }
}

fn asked_for(hello: &ClientHello<'_>, dialled: IpAddr) -> String {
    hello.server_name().map_or_else(|| dialled.to_canonical().to_string(), str::to_owned)
}

/// Serves until `stop`; open requests are then given `grace`.
pub(crate) async fn serve(
    listener: TcpListener,
    authority: Arc<Authority>,
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) {
    let serve = move |stream, _peer, closing| {
        let (authority, router) = (authority.clone(), router.clone());
        async move {
            if let Err(error) = connection(stream, &authority, router, closing).await {
                tracing::debug!(%error, "a connection to the object store ended early");
            }
        }
    };
    if let Err(error) = pinfold_http::accept(listener, stop.cancelled(), grace, serve).await {
        tracing::warn!(%error, "the object store over TLS did not end cleanly");
    }
}

async fn connection(
    stream: TcpStream,
    authority: &Authority,
    router: Router,
    closing: Closing,
) -> Result<(), Failed> {
    let (dialled, peer) = (stream.local_addr()?.ip(), stream.peer_addr()?);
    let handshake = async {
        let asked = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = authority.config(&asked_for(&asked.client_hello(), dialled))?;
        Ok::<_, Failed>(asked.into_stream(config).await?)
    };
    let stream = tokio::time::timeout(HANDSHAKE, handshake).await??;
    pinfold_http::serve_connection(stream, peer, router, closing.begun()).await;
    Ok(())
}
