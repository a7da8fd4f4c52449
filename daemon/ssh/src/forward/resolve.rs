//! Addresses of names, without the C library's resolver, which a static binary must not use.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::TokioResolver;

/// The addresses of `host`, which may be one itself; `localhost` needs no server (RFC 6761, section 6.3).
pub(crate) async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Some(literal) = literal(host) {
        return Ok(literal);
    }
    // Read anew each time: the sandbox's resolv.conf and hosts file may change under us, and a lookup is rare.
    let resolver =
        TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().collect())
}

/// Addresses that need no lookup.
pub(crate) fn literal(host: &str) -> Option<Vec<IpAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok().map(|address| vec![address])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_literals_and_localhost() {
        assert_eq!(literal("127.0.0.1"), Some(vec![Ipv4Addr::LOCALHOST.into()]));
        assert_eq!(literal("[::1]"), Some(vec![Ipv6Addr::LOCALHOST.into()]));
        assert_eq!(literal("LocalHost").map(|a| a.len()), Some(2));
        assert_eq!(literal("example"), None);
    }
}
