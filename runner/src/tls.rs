//! The HTTP API over TLS (`ENABLE_TLS`), for nodes whose control plane reaches them over a network they do not trust.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use pinfold_http::Closing;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::error::RunError;

/// A client that does not finish its handshake holds a task; not for long.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Reads the certificate chain and its key.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, RunError> {
    let failed =
        |what: &str, reason: String| RunError::Part { part: "TLS", reason: format!("{what}: {reason}") };
    let cert_failed =
        |e: rustls::pki_types::pem::Error| failed(&certificate.display().to_string(), e.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(cert_failed)?.collect();
    let chain = chain.map_err(cert_failed)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|e| failed(&key.display().to_string(), e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|e| failed("the certificate and its key", e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop`; open requests are then given `grace`.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) {
    let serve =
        move |stream, peer, closing| connection(stream, peer, acceptor.clone(), router.clone(), closing);
    if let Err(error) = pinfold_http::accept(listener, stop.cancelled(), grace, serve).await {
        tracing::warn!(%error, "the HTTPS server did not end cleanly");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    closing: Closing,
) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
    };
    pinfold_http::serve_connection(stream, peer, router, closing.begun()).await;
}
