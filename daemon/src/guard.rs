//! Who may ask the daemon's HTTP servers anything (weaknesses G3 and G4 of the toolbox contract).
//!
//! No route checks credentials, by contract, so two kinds of strangers are kept out here. Peers outside the networks the operator named, if any: the
//! sandbox's own processes always may. And web pages: a browser in the sandbox, or beside it, sends requests on behalf of any page it shows. A page's
//! requests name its `Origin`; one that is not this server's is refused, unless it came through the platform's proxy, which says so in headers that no page
//! can set on such a request. A page whose name an attacker resolves to this sandbox is its own origin, but its `Host` is a public name, which nobody
//! inside has a reason to use.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{FORWARDED, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Uri};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use pinfold_http::ApiError;
use pinfold_settings::Networks;

/// What the operator decides.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Who may connect, besides the sandbox itself; absent means anybody.
    pub peers: Option<Arc<Networks>>,
    /// Whether pages of any origin may ask.
    pub any_origin: bool,
}

/// Middleware that refuses strangers with 403.
pub(crate) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let ends = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = ends.map(|info| info.0.ip().to_canonical());
    match guard.refusal(peer, request.headers(), request.uri()) {
        Some(reason) => {
            tracing::warn!(?peer, path = request.uri().path(), reason, "refused a stranger's request");
            ApiError::new(StatusCode::FORBIDDEN, format_args!("forbidden: {reason}")).into_response()
        }
        None => next.run(request).await,
    }
}

impl Guard {
    /// Whether a connection from `peer` is taken at all.
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.contains(peer) || is_local(peer))
    }

    fn refusal(&self, peer: Option<IpAddr>, headers: &HeaderMap, uri: &Uri) -> Option<&'static str> {
        if peer.is_some_and(|peer| !self.admits(peer)) {
            return Some("this address may not use the sandbox's toolbox");
        }
        if self.any_origin {
            return None;
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(HOST).or_else(|| uri.authority().map(|authority| authority.as_str()));
        if host.is_some_and(is_public_name) && peer.is_some_and(is_local) {
            return Some("the host name is not the sandbox's");
        }
        let through_proxy = ["x-forwarded-for", "x-forwarded-host", FORWARDED.as_str()];
        if through_proxy.iter().any(|name| headers.contains_key(*name)) {
            return None;
        }
        let origin = headers.get(ORIGIN)?.to_str().unwrap_or_default();
        (!is_same(origin, host.unwrap_or_default()))
            .then_some("a page of another origin may not use the toolbox")
    }
}

/// Whether the peer is this very machine: the loopback, or an address of its own.
fn is_local(peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    let is_peer = |address: &SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()))) == Some(peer)
    };
    let own = || getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    peer.is_loopback() || own().any(|address| is_peer(&address))
}

/// Whether the name could be anybody's: it has a dot and is neither an address nor below `localhost`.
fn is_public_name(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    !address && name.contains('.') && !name.ends_with(".localhost")
}

/// Whether an origin (`scheme://host[:port]`) is that of the server asked for as `host`. The scheme may differ: a proxy may have ended TLS.
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |text: &str| text.strip_suffix(default).unwrap_or(text).to_ascii_lowercase();
    !authority.is_empty() && bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(guard: &Guard, peer: &str, headers: &[(&'static str, &str)]) -> bool {
        let headers =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        guard.refusal(Some(peer.parse().unwrap()), &headers.collect(), &Uri::from_static("/")).is_some()
    }

    #[test]
    fn pages_of_other_origins_are_refused_unless_the_platform_sent_them() {
        let guard = Guard::default();
        let host = ("host", "172.20.0.3:2280");
        let cases: [(&[(&'static str, &str)], bool); 9] = [
            (&[host], false),
            (&[host, ("origin", "http://172.20.0.3:2280")], false),
            (&[host, ("origin", "http://evil.example")], true),
            (&[host, ("origin", "http://172.20.0.3:3000")], true),
            (&[host, ("origin", "null")], true),
            (&[host, ("origin", "https://app.example"), ("x-forwarded-host", "app.example")], false),
            (&[host, ("origin", "https://app.example"), ("x-forwarded-for", "1.2.3.4")], false),
            (&[("host", "box"), ("origin", "http://box:80")], false),
            (&[("host", "box.example"), ("origin", "https://box.example")], false),
        ];
        for (headers, expected) in cases {
            assert_eq!(refused(&guard, "203.0.113.1", headers), expected, "{headers:?}");
        }
        let open = Guard { any_origin: true, ..Guard::default() };
        assert!(!refused(&open, "203.0.113.1", &[host, ("origin", "http://evil.example")]));
    }

    #[test]
    fn names_that_resolve_here_by_an_attackers_will_are_refused() {
        let guard = Guard::default();
        for (host, expected) in [
            ("localhost:2280", false),
            ("app.localhost:2280", false),
            ("127.0.0.1:2280", false),
            ("[::1]:2280", false),
            ("sandbox", false),
            ("rebind.evil.example:2280", true),
            ("rebind.evil.example", true),
        ] {
            let origin = format!("http://{host}");
            // Such a page can set any header, as it is its own origin.
            let headers = [("host", host), ("origin", origin.as_str()), ("x-forwarded-for", "1.2.3.4")];
            assert_eq!(refused(&guard, "127.0.0.1", &headers), expected, "{host}");
        }
        // From outside the name is the platform's to choose.
        assert!(!refused(&guard, "203.0.113.1", &[("host", "2280-box.proxy.example")]));
    }

    #[test]
    fn only_named_peers_and_the_sandbox_itself() {
        let peers = Some(Arc::new("203.0.113.1".parse().unwrap()));
        let guard = Guard { peers, ..Guard::default() };
        for (peer, expected) in
            [("203.0.113.1", false), ("203.0.113.9", true), ("127.0.0.1", false), ("::1", false)]
        {
            assert_eq!(refused(&guard, peer, &[("host", "x")]), expected, "{peer}");
        }
    }
}
