//! Header rules of one hop (RFC 9110 section 7.6.1).

use std::net::IpAddr;

use http::header::{
    CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Removes what concerns one connection only, including every header that `Connection` names.
///
/// `Trailer` stays: trailers are passed on, so their announcement is too.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_tokens(headers).filter_map(|t| t.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    let fixed = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in fixed {
        headers.remove(name);
    }
}

/// The protocol that a message upgrades to, or asks for.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrades = connection_tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"));
    if upgrades { headers.get(UPGRADE).cloned() } else { None }
}

/// Makes a client's headers those of the next hop's request.
pub(crate) fn prepare_request(
    headers: &mut HeaderMap,
    host: &HeaderValue,
    peer: Option<IpAddr>,
    upgrade: Option<&HeaderValue>,
) {
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.to_ascii_lowercase().contains("trailers"));
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    remove_hop_by_hop(headers);
    // Our own server has answered the expectation by reading the body; the client has no way to wait for a second answer.
    headers.remove(EXPECT);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if chunked {
        // Said outright, because the client would otherwise assume that a GET with a body of unknown length has none.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(protocol) = upgrade {
        set_upgrade(headers, protocol);
    }
    headers.insert(HOST, host.clone());
    if let Some(peer) = peer {
        append_forwarded_for(headers, peer);
    }
}

/// Announces an upgrade to `protocol`.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol.clone());
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    let mut chain: Vec<u8> = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.to_canonical().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&chain) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (k.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn only_the_hop_is_forgotten() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("trailer", "x-sum"),
            ("authorization", "Bearer t"),
            ("x-forwarded-host", "h"),
            ("x-forwarded-for", "1.1.1.1"),
            ("host", "outside"),
        ]);
        prepare_request(
            &mut headers,
            &HeaderValue::from_static("inside:1"),
            Some([10, 0, 0, 1].into()),
            None,
        );
        let expected = map(&[
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("authorization", "Bearer t"),
            ("x-forwarded-host", "h"),
            ("x-forwarded-for", "1.1.1.1, 10.0.0.1"),
            ("host", "inside:1"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert_eq!(
            upgrade_of(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).unwrap(),
            "websocket"
        );
        assert_eq!(upgrade_of(&map(&[("connection", "keep-alive"), ("upgrade", "h2c")])), None);
        assert_eq!(upgrade_of(&map(&[("connection", "upgrade")])), None);
    }
}
