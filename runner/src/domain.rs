//! What this host's own configuration says: the address that is advertised when nobody configured one (the first IPv4 address of the
//! interface that holds the default route), and its name servers.

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

/// The host's name servers that a sandbox can ask. A stub on the loopback interface is none; the servers behind it are.
pub(crate) fn name_servers() -> Vec<Ipv4Addr> {
    let read = |path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let servers =
            pinfold_network::upstreams_of(&text).into_iter().filter_map(|server| match server.ip() {
                IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
                _ => None,
            });
        servers.collect::<Vec<_>>()
    };
    let found = read("/etc/resolv.conf");
    if found.is_empty() { read("/run/systemd/resolve/resolv.conf") } else { found }
}
