//! The address that is advertised when nobody configured one: the first IPv4 address of the interface that holds the default route.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Found by asking the kernel which source address it would use; nothing is sent.
pub(crate) fn first_address() -> String {
    let probe = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // A documentation address: only the route matters.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(address) if !address.is_unspecified() => Some(address.to_string()),
            _ => None,
        }
    };
    probe().unwrap_or_else(|| {
        tracing::warn!("this host has no default route; advertising 127.0.0.1 (set RUNNER_DOMAIN)");
        Ipv4Addr::LOCALHOST.to_string()
    })
}
