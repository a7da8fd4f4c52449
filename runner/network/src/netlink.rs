//! nf_tables over netlink: one transaction is one message to the kernel, without a process, and without reading back what is installed.
//!
//! The encoding is the kernel's (`linux/netfilter/nf_tables.h`). Only what changes with a sandbox is written here; the fixed rules are text that
//! `nft` applies once at the start.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, getsockname, recv,
    send, setsockopt, socket, sockopt,
};
use tokio::io::{Interest, unix::AsyncFd};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
/// New rules go to the end of their chain.
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NFPROTO_INET`.
pub(crate) const INET: u8 = 1;
/// `NFPROTO_BRIDGE`.
pub(crate) const BRIDGE: u8 = 7;
const HEADER: usize = 16;
/// The group of `NFNLGRP_NFTABLES`, which is the seventh.
const CHANGES: u32 = 1 << 6;
/// `NFT_MSG_DELTABLE`.
const DELETED_TABLE: u16 = 2;
/// Room for long allow lists; a transaction is one message.
const BUFFER: usize = 8 << 20;

/// What a message asks for (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Ask {
    NewChain = 3,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    DelSet = 11,
    NewElement = 12,
    DelElement = 14,
}

impl Ask {
    const fn flags(self) -> u16 {
        match self {
            Self::NewChain | Self::NewSet | Self::NewElement => CREATE,
            Self::NewRule => CREATE | APPEND,
            Self::GetRule => DUMP,
            Self::DelChain | Self::DelRule | Self::DelSet | Self::DelElement => 0,
        }
    }
}

/// Attributes under construction. Each is its length, its kind, its bytes, and padding to four.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        // A value longer than this cannot be written; our longest is a short list of elements.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// A transaction. Messages are applied in order, all or none.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    family: u8,
    sequence: u32,
    last: usize,
}

impl Batch {
    /// Changes of our table of the family `inet`.
    pub(crate) fn new() -> Self {
        Self::of(INET)
    }

    /// Changes of our table of the family `bridge`.
    pub(crate) fn bridge() -> Self {
        Self::of(BRIDGE)
    }

    fn of(family: u8) -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(4096), family, sequence: 0, last: 0 };
        batch.message(BATCH_BEGIN, REQUEST, 0, NFTABLES, &[]);
        batch
    }

    /// Adds a message.
    pub(crate) fn ask(&mut self, ask: Ask, attributes: Attributes) -> &mut Self {
        self.last = self.bytes.len();
        self.message((NFTABLES << 8) | ask as u16, REQUEST | ask.flags(), self.family, 0, &attributes.0);
        self
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, payload: &[u8]) {
        let [high, low] = resource.to_be_bytes();
        let payload = [&[family, 0, high, low], payload].concat();
        self.bytes.extend(message(kind, flags, self.sequence, &payload));
        self.sequence += 1;
    }
}

/// Our table's name, in both families.
pub(crate) const TABLE: &str = "pinfold";

/// A way to the kernel.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        Ok(send(self.0.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)?)
    }

    /// Hands each entry of the list that `question` asks for to `each`.
    pub(crate) fn list(&self, question: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(question)?;
        loop {
            let Some(answer) = self.receive(MsgFlags::empty())? else {
                return Err(io::Error::other("the kernel did not list what was asked for"));
            };
            for (kind, payload) in messages(&answer) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return error_of(payload).map_or(Ok(()), Err),
                    _ => each(payload),
                }
            }
        }
    }

    /// The next datagram; `None` when there is none and `flags` say not to wait.
    pub(crate) fn receive(&self, flags: MsgFlags) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, flags) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The way to nf_tables. It stays open: closing one makes the kernel wait until what the last transaction removed is out of every processor's sight.
#[derive(Debug)]
pub(crate) struct Kernel(Socket);

impl Kernel {
    pub(crate) fn open() -> io::Result<Self> {
        Socket::open(SockProtocol::NetlinkNetFilter).map(Self)
    }

    /// The kernel has everything when this returns, or nothing. Blocks for as long as the kernel commits.
    pub(crate) fn commit(&self, mut batch: Batch) -> io::Result<()> {
        if batch.last == 0 {
            return Ok(());
        }
        // Only the last change is acknowledged; a failure of any is always told.
        let flags = batch.last + 6;
        batch.bytes[flags] |= ACK.to_ne_bytes()[0];
        batch.message(BATCH_END, REQUEST, 0, NFTABLES, &[]);
        self.0.send(&batch.bytes)?;
        let (mut acknowledged, mut refused) = (false, None);
        // The kernel answers before the sending returns, so an empty queue is the end.
        while let Some(answer) = self.0.receive(MsgFlags::MSG_DONTWAIT)? {
            for (kind, payload) in messages(&answer) {
                if kind == NLMSG_ERROR {
                    match error_of(payload) {
                        None => acknowledged = true,
                        Some(error) => refused = refused.or(Some(error)),
                    }
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(io::Error::other("the kernel did not acknowledge the rules")),
        }
    }

    /// How many rules a chain of our table of this family has; none where there is no such chain.
    pub(crate) fn rules(&self, family: u8, chain: &str) -> io::Result<usize> {
        let mut count = 0;
        self.each_rule(family, Attributes::default().text(1, TABLE).text(2, chain), |_| count += 1)?;
        Ok(count)
    }

    /// Hands each rule of our table, or of the one chain that `wanted` names, to `each`: the family's header and its attributes.
    pub(crate) fn each_rule(
        &self,
        family: u8,
        wanted: Attributes,
        each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut batch = Batch { bytes: Vec::new(), family, sequence: 1, last: 0 };
        batch.ask(Ask::GetRule, wanted);
        match self.0.list(&batch.bytes, each) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            listed => listed,
        }
    }
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind, flags].into_iter().flat_map(u16::to_ne_bytes));
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A question by itself, outside any transaction: the family's own header, empty, and what is asked for.
pub(crate) fn question(kind: u16, flags: u16, header: usize, attributes: &Attributes) -> Vec<u8> {
    message(kind, REQUEST | flags, 1, &[&vec![0; header], &attributes.0[..]].concat())
}

/// The kernel's word on each change of nf_tables, whoever makes it.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: AsyncFd<OwnedFd>,
    own: u32,
}

impl Watch {
    /// Listens to what others than `own` do from now on.
    pub(crate) fn open(own: &Kernel) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let watch = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(watch.as_raw_fd(), &NetlinkAddr::new(0, CHANGES))?;
        let own = getsockname::<NetlinkAddr>(own.0.0.as_raw_fd())?.pid();
        let socket = watchable(watch)?;
        Ok(Self { socket, own })
    }

    /// Returns when somebody else has removed or added rules, or may have: of what comes faster than it is read the kernel drops some.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let (mut buffer, mut changed) = (vec![0; 64 * 1024], false);
            // All there is of one change at once.
            loop {
                match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => changed |= tells_of_another(&buffer[..length], self.own),
                    Err(Errno::EINTR) => {}
                    Err(Errno::ENOBUFS) => changed = true,
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if changed {
                return Ok(());
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio wants the word that the descriptor stays open while it is watched")]
fn watchable(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is closed only when it is dropped, and here it belongs to what watches it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Whether a datagram tells of rules, chains or tables that somebody else than `own` has changed.
fn tells_of_another(datagram: &[u8], own: u32) -> bool {
    let matters = [DELETED_TABLE, Ask::DelChain as u16, Ask::NewRule as u16, Ask::DelRule as u16];
    headers(datagram)
        .any(|(kind, port, _)| kind >> 8 == NFTABLES && matters.contains(&(kind & 0xff)) && port != own)
}

/// The messages of a datagram: kind and payload.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    headers(datagram).map(|(kind, _, payload)| (kind, payload))
}

/// The messages of a datagram: kind, who caused it, and payload.
fn headers(mut datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER)?;
        let length = usize::try_from(u32::from_ne_bytes(header[..4].try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let port = u32::from_ne_bytes(header[12..16].try_into().ok()?);
        let payload = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, port, payload))
    })
}

/// The attributes of a message: kind and value.
pub(crate) fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The error in an answer; `None` for an acknowledgement.
pub(crate) fn error_of(payload: &[u8]) -> Option<io::Error> {
    let code =
        payload.get(..4).and_then(|b| b.try_into().ok()).map_or(-(Errno::EPROTO as i32), i32::from_ne_bytes);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let made = Attributes::default().text(1, "ab").nested(4, Attributes::default().number(2, 1));
        assert_eq!(made.0[..8], [7, 0, 1, 0, b'a', b'b', 0, 0]);
        assert_eq!(made.0[8..], [12, 0, 4, 0x80, 8, 0, 2, 0, 0, 0, 0, 1]);
        let read: Vec<_> = attributes_of(&made.0).collect();
        assert_eq!(read, [(1, &b"ab\0"[..]), (4, &[8, 0, 2, 0, 0, 0, 0, 1][..])]);
        assert_eq!(attributes_of(&[9, 0, 1, 0]).count() + attributes_of(&[1, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn only_what_others_do_to_rules_matters() {
        let notice = |kind: u16, port: u32| {
            let mut bytes = message((NFTABLES << 8) | kind, 0, 1, &[0; 4]);
            bytes[12..16].copy_from_slice(&port.to_ne_bytes());
            bytes
        };
        assert!(tells_of_another(&notice(DELETED_TABLE, 7), 8));
        assert!(!tells_of_another(&notice(DELETED_TABLE, 8), 8), "our own");
        let element = notice(Ask::NewElement as u16, 7);
        assert!(!tells_of_another(&element, 8) && !tells_of_another(&[1, 2], 8));
        assert!(tells_of_another(&[element, notice(Ask::DelRule as u16, 7)].concat(), 8));
    }

    #[test]
    fn answers_are_read_and_nonsense_is_survived() {
        let mut ack = 20_u32.to_ne_bytes().to_vec();
        ack.extend(NLMSG_ERROR.to_ne_bytes());
        ack.extend([0; 10]);
        let refused = [&ack[..], &(-2_i32).to_ne_bytes()].concat();
        let accepted = [&ack[..], &0_i32.to_ne_bytes()].concat();
        let both = [accepted, refused].concat();
        let found: Vec<_> = messages(&both).map(|(kind, payload)| (kind, error_of(payload))).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].1.is_none());
        assert_eq!(found[1].1.as_ref().unwrap().raw_os_error(), Some(2));
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0);
        assert!(error_of(&[]).is_some());
    }
}
