//! Listening TCP sockets as `/proc/net/tcp` has them (proc(5)), for kernels that answer no sock_diag.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Listener;

/// Every listening TCP socket, of both families.
pub(super) fn listeners() -> Vec<Listener> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).flat_map(|t| parse(&t)).collect()
}

/// The rows in state 0A, `TCP_LISTEN`.
fn parse(table: &str) -> Vec<Listener> {
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace());
    rows.filter_map(|mut fields| {
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        if state == "0A" { listener(local) } else { None }
    })
    .collect()
}

/// The kernel writes an address in words of its own order.
fn listener(local: &str) -> Option<Listener> {
    let (address, port) = local.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _ => return None,
    };
    Some(Listener { address, port: u16::from_str_radix(port, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_listeners_of_both_families() {
        let is = |table: &str, expected: &[&str]| {
            let found: Vec<_> = parse(table).iter().map(|l| SocketAddr::new(l.address, l.port)).collect();
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(found, expected);
        };
        let head = "  sl  local_address rem_address   st\n";
        let rows = "   0: 0100007F:0BB8 00000000:0000 0A 0:0 0\n   1: 0100007F:1F90 0100007F:A1B2 01 0:0 0\n   2: 0200110A:0BB9 0:0 0A 0\n";
        is(&format!("{head}{rows}"), &["127.0.0.1:3000", "10.17.0.2:3001"]);
        let v6 = "0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0\n garbage\n 0: 0:0 0:0 0A\n";
        is(&format!("{head}{v6}"), &["[::1]:8080"]);
    }
}
