//! Forwarding one request.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::connect::{Born, Connector};
use crate::headers::{prepare_request, remove_hop_by_hop, set_upgrade, upgrade_of};
use crate::{ProxyError, Upstream, upgrade};

/// How long connecting may take unless [`Proxy::with_connect_timeout`] says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an unused connection is kept. Our servers keep theirs for longer, so that they never close one we are about to use.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Unused connections kept for each upstream.
const POOL_SIZE: usize = 100;

/// A reverse proxy with its pool of connections. Cheap to clone; clones share the pool.
#[derive(Debug, Clone)]
pub struct Proxy {
    pooled: Client<Connector, Body>,
    /// Never reuses a connection: for the second attempt of a request whose pooled connection was dead.
    fresh: Client<Connector, Body>,
}

/// Where and how to forward one request.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// The next hop.
    pub upstream: Upstream,
    /// What the next hop sees as `Host`.
    pub host: HeaderValue,
    /// Path and query, still percent-encoded, forwarded byte for byte. Empty means `/`, and a missing leading slash is added.
    pub path_and_query: &'a str,
    /// Who sent the request; appended to `X-Forwarded-For`.
    pub peer: Option<IpAddr>,
    /// Headers that the next hop must not see.
    pub strip: &'a [HeaderName],
    /// Headers that are set (replaced) after stripping.
    pub set: HeaderMap,
}

impl<'a> Target<'a> {
    /// A target whose `Host` is the upstream's own name, with no peer and no headers of the caller's.
    pub fn new(upstream: impl Into<Upstream>, path_and_query: &'a str) -> Self {
        let upstream = upstream.into();
        let host =
            HeaderValue::try_from(upstream.to_string()).unwrap_or(HeaderValue::from_static("localhost"));
        Self { upstream, host, path_and_query, peer: None, strip: &[], set: HeaderMap::new() }
    }

    fn uri(&self) -> Result<Uri, http::Error> {
        let raw = self.path_and_query;
        let path = if raw.starts_with('/') {
            PathAndQuery::try_from(raw)
        } else {
            PathAndQuery::try_from(format!("/{raw}"))
        };
        Uri::builder().scheme(Scheme::HTTP).authority(self.upstream.to_string()).path_and_query(path?).build()
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::new()
    }
}

impl Proxy {
    /// A proxy that gives up connecting after [`CONNECT_TIMEOUT`].
    pub fn new() -> Self {
        Self::with_connect_timeout(CONNECT_TIMEOUT)
    }

    /// A proxy that gives up connecting after `timeout`.
    pub fn with_connect_timeout(timeout: Duration) -> Self {
        let client = |kept| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(kept)
                .http1_title_case_headers(true)
                .set_host(false)
                .build(Connector { timeout })
        };
        Self { pooled: client(POOL_SIZE), fresh: client(0) }
    }

    /// Sends `request` to `target` and returns the response as soon as its head is there; bodies flow on their own.
    ///
    /// Dropping the returned future or the response's body closes the connection to the upstream. After a 101 the two connections are joined.
    pub async fn forward(&self, mut request: Request, target: Target<'_>) -> Result<Response, ProxyError> {
        let upstream = target.upstream;
        let protocol = upgrade_of(request.headers());
        let client_side = protocol.as_ref().and_then(|_| request.extensions_mut().remove::<OnUpgrade>());
        let request = outgoing(request, target, protocol.as_ref())?;

        let spare = second_attempt(&request);
        let began = Instant::now();
        let mut result = self.pooled.request(request).await;
        if let (Err(error), Some(spare)) = (&result, spare)
            && died_in_pool(error, began)
        {
            tracing::debug!(%upstream, "a pooled connection was dead; trying a fresh one");
            result = self.fresh.request(spare).await;
        }
        let mut response = result.map_err(|error| ProxyError::of(upstream, error))?;

        let switched = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let client_side = client_side.ok_or(ProxyError::UnaskedUpgrade(upstream))?;
                let tunnel = upgrade::tunnel(client_side, hyper::upgrade::on(&mut response));
                response.extensions_mut().insert(tunnel);
                upgrade_of(response.headers()).or(protocol)
            }
            _ => None,
        };
        remove_hop_by_hop(response.headers_mut());
        if let Some(protocol) = switched {
            set_upgrade(response.headers_mut(), &protocol);
        }
        Ok(response.map(Body::new))
    }
}

fn outgoing(
    request: Request,
    target: Target<'_>,
    protocol: Option<&HeaderValue>,
) -> Result<Request, ProxyError> {
    let uri = target.uri().map_err(ProxyError::Path)?;
    let (mut parts, body) = request.into_parts();
    for name in target.strip {
        parts.headers.remove(name);
    }
    prepare_request(&mut parts.headers, &target.host, target.peer, protocol);
    parts.headers.extend(target.set);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = parts.headers;
    Ok(request)
}

/// The same request once more, if sending it twice cannot do harm.
fn second_attempt(request: &Request) -> Option<Request> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// Whether the connection was made before the request and ended without an answer. (Requests that were never sent are retried by the client itself.)
fn died_in_pool(error: &legacy::Error, began: Instant) -> bool {
    let mut extras = http::Extensions::new();
    let Some(connected) = error.connect_info() else { return false };
    connected.get_extras(&mut extras);
    extras.get::<Born>().is_some_and(|born| born.0 < began)
}
