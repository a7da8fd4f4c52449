//! Whom to trust: Mozilla's roots, which are compiled in, and what the image adds, such as a company's own authority.

use std::path::PathBuf;
use std::sync::Arc;

use pinfold_spawn::Environment;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where distributions keep their bundle; the first that exists counts.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Variables that name a bundle, for git and for OpenSSL.
const VARIABLES: &[&str] = &["GIT_SSL_CAINFO", "SSL_CERT_FILE"];
/// More than any bundle holds.
const LARGEST: u64 = 16 << 20;

/// The TLS configuration of one operation.
pub(crate) fn config(environment: &Environment, insecure: bool) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if insecure {
        let verifier = Arc::new(TakeAll { provider });
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let named = VARIABLES.iter().filter_map(|name| environment.get(name)).map(PathBuf::from);
    let usual = BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file());
    for path in named.chain(usual) {
        if !std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= LARGEST) {
            tracing::warn!(path = %path.display(), "the certificate bundle is not readable");
            continue;
        }
        match CertificateDer::pem_file_iter(&path) {
            // Bundles hold odd certificates; those that do not parse are not trusted.
            Ok(certificates) => drop(roots.add_parsable_certificates(certificates.flatten())),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the certificate bundle was not read")
            }
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate, for `insecure_skip_tls`. Signatures are still checked.
#[derive(Debug)]
struct TakeAll {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TakeAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
