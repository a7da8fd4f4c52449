//! The HTTP client for what is outside: object stores and registries.

use std::time::Duration;

use reqwest::Client;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one call may take: none moves data.
const CALL: Duration = Duration::from_secs(30);

/// A client that trusts the host's certificate authorities.
pub(crate) fn new() -> Result<Client, reqwest::Error> {
    // A second installation is refused, which is fine: somebody installed one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().connect_timeout(CONNECT).timeout(CALL).build()
}
