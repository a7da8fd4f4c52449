//! Which port of the bridge leads to a process's network, by rtnetlink(7).
//!
//! Only what this side of the pair says counts: the number by which this host's network namespace knows the other end's. Nothing in a sandbox can choose it.

use std::collections::HashMap;
use std::io;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, SockProtocol};

use crate::netlink::{Attributes, DUMP, NLMSG_ERROR, Socket, attributes_of, error_of, messages, question};

const GET_LINK: u16 = 18;
const GET_NSID: u16 = 90;
/// `sizeof(struct ifinfomsg)`.
const LINK_HEADER: usize = 16;
/// `sizeof(struct rtgenmsg)`, padded.
const NAMESPACE_HEADER: usize = 4;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;

/// A port of the bridge. Two interfaces that have one name after another differ in their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) index: u32,
}

impl Port {
    /// The interface that has this name now.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(Self { name: name.to_owned(), index: if_nametoindex(name).ok()? })
    }

    /// Whether it is still there.
    pub(crate) fn exists(&self) -> bool {
        Self::named(&self.name).as_ref() == Some(self)
    }
}

/// The port of `bridge` whose other end is in the network namespace of `process`; none where that namespace has none.
pub(crate) fn leading_to(bridge: &str, process: u32) -> io::Result<Option<Port>> {
    let master = if_nametoindex(bridge)?;
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    // Listing gives every namespace that has an end of a pair its number.
    let ports = ports(&socket, master)?;
    let Some(namespace) = namespace_of(&socket, process)? else { return Ok(None) };
    Ok(ports.into_iter().find(|(of, _)| *of == namespace).map(|(_, port)| port))
}

/// The ports of a bridge that lead to other namespaces, by the namespace's number.
fn ports(socket: &Socket, master: u32) -> io::Result<Vec<(i32, Port)>> {
    let asked = Attributes::default().bytes(IFLA_MASTER, &master.to_ne_bytes());
    let mut found = Vec::new();
    let each = |link: &[u8]| found.extend(port_of(link, master));
    socket.list(&question(GET_LINK, DUMP, LINK_HEADER, &asked), each)?;
    Ok(found)
}

fn port_of(link: &[u8], master: u32) -> Option<(i32, Port)> {
    let index = number(link.get(4..)?)?;
    let said: HashMap<u16, &[u8]> = attributes_of(link.get(LINK_HEADER..)?).collect();
    // Kernels before 4.10 list everything.
    if number(said.get(&IFLA_MASTER)?)? != master {
        return None;
    }
    let name = std::str::from_utf8(said.get(&IFLA_IFNAME)?).ok()?.trim_end_matches('\0').to_owned();
    let namespace = number(said.get(&IFLA_LINK_NETNSID)?)?.cast_signed();
    Some((namespace, Port { name, index }))
}

/// The number that this host has for the network namespace of `process`; none if it has given it none, as for its own.
fn namespace_of(socket: &Socket, process: u32) -> io::Result<Option<i32>> {
    let asked = Attributes::default().bytes(NETNSA_PID, &process.to_ne_bytes());
    socket.send(&question(GET_NSID, 0, NAMESPACE_HEADER, &asked))?;
    let answer = socket.receive(MsgFlags::empty())?.unwrap_or_default();
    let (kind, payload) = messages(&answer).next().ok_or(io::ErrorKind::InvalidData)?;
    if kind == NLMSG_ERROR {
        return error_of(payload).map_or(Ok(None), Err);
    }
    let mut said = attributes_of(payload.get(NAMESPACE_HEADER..).unwrap_or_default());
    let named = said.find_map(|(kind, value)| number(value).filter(|_| kind == NETNSA_NSID));
    Ok(named.map(u32::cast_signed).filter(|number| *number >= 0))
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_port() {
        for link in [&[][..], &[0; 16], &[255; 64]] {
            assert_eq!(port_of(link, 3), None);
        }
        assert!(Port::named("lo").is_some_and(|port| port.exists()));
        assert!(!Port { name: "lo".to_owned(), index: 4_000_000 }.exists());
        assert!(leading_to("no-such-bridge", 1).is_err());
    }

    #[test]
    fn a_process_of_the_hosts_own_network_has_no_port() {
        assert_eq!(leading_to("lo", std::process::id()).unwrap(), None);
    }
}
