//! Asking the kernel which TCP sockets listen (sock_diag(7)).
//!
//! `/proc/net/tcp` says it too, but to write it the kernel looks into each bucket of the table of all connections: some ten milliseconds a read on a large
//! machine. This asks for listeners alone, which have a table of their own: some ten microseconds. Any user may ask, about its own network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::Listener;

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN` of linux/tcp.h.
const LISTEN: u32 = 10;
/// A `nlmsghdr`: length, type, flags, number, sender.
const HEAD: usize = 16;
/// A `inet_diag_req_v2`: what, then 48 bytes of an address that a dump ignores.
const REQUEST: usize = 56;
/// More than the kernel puts into one answer to who reads with a buffer like this.
const ANSWER: usize = 32 << 10;

/// Every listening TCP socket, of both families.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut found = Vec::new();
    let mut answer = vec![0; ANSWER];
    for family in [libc::AF_INET, libc::AF_INET6] {
        send(kernel.as_raw_fd(), &request(family), MsgFlags::empty())?;
        loop {
            // The kernel answers while it is asked, so that there is nothing to wait for.
            let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
            if read(&answer[..length], &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small constants")]
fn request(family: i32) -> Vec<u8> {
    let length = HEAD + REQUEST;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&(length as u32).to_ne_bytes());
    request.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend_from_slice(&(1_u32 << LISTEN).to_ne_bytes());
    request.resize(length, 0);
    request
}

/// Reads one answer's messages. True after the last of all.
fn read(mut answer: &[u8], found: &mut Vec<Listener>) -> io::Result<bool> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    while !answer.is_empty() {
        let length = u32::from_ne_bytes(array(answer, 0).ok_or_else(bad)?) as usize;
        let kind = u16::from_ne_bytes(array(answer, 4).ok_or_else(bad)?);
        let body = answer.get(HEAD..length).ok_or_else(bad)?;
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = i32::from_ne_bytes(array(body, 0).ok_or_else(bad)?);
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => found.extend(listener(body)),
        }
        // Messages begin at multiples of four.
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The beginning of a `inet_diag_msg`: family, state, two timers, then the ports and the own address as they are sent.
fn listener(message: &[u8]) -> Option<Listener> {
    let port = u16::from_be_bytes(array(message, 4)?);
    let address = match i32::from(*message.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(array::<4>(message, 8)?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(array::<16>(message, 8)?)),
        _ => return None,
    };
    Some(Listener { address, port })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_kernel_names_listeners_of_both_families_and_no_connections() {
        let v4 = TcpListener::bind("127.0.0.2:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let client = std::net::TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        let found = listeners().unwrap();
        // Others may listen on the same ports of other addresses.
        let told = |local: std::net::SocketAddr| {
            let listener = Listener { address: local.ip(), port: local.port() };
            found.iter().filter(|l| **l == listener).count()
        };
        assert_eq!([&v4, &v6].map(|socket| told(socket.local_addr().unwrap())), [1, 1]);
        assert_eq!(told(client.local_addr().unwrap()), 0);
    }

    #[test]
    fn more_listeners_than_one_answer_holds_are_all_named() {
        let sockets: Vec<_> = (0..600).map(|_| TcpListener::bind("127.0.0.3:0").unwrap()).collect();
        let found = listeners().unwrap();
        for socket in &sockets {
            let local = socket.local_addr().unwrap();
            assert!(found.contains(&Listener { address: local.ip(), port: local.port() }), "{local}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bad in [
            &[1][..],
            &[0; 20],
            &[255; 20],
            &[20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254, 255, 255, 255],
        ] {
            assert!(read(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }
}
