//! The messages of SSH's connection protocol (RFC 4254): parsing what a client sends, writing what it gets.

use bytes::Bytes;

use crate::wire::{Reader, Truncated, Writer};

pub(crate) const GLOBAL_REQUEST: u8 = 80;
pub(crate) const REQUEST_SUCCESS: u8 = 81;
pub(crate) const REQUEST_FAILURE: u8 = 82;
pub(crate) const CHANNEL_OPEN: u8 = 90;
pub(crate) const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
pub(crate) const CHANNEL_OPEN_FAILURE: u8 = 92;
pub(crate) const CHANNEL_WINDOW_ADJUST: u8 = 93;
pub(crate) const CHANNEL_DATA: u8 = 94;
pub(crate) const CHANNEL_EXTENDED_DATA: u8 = 95;
pub(crate) const CHANNEL_EOF: u8 = 96;
pub(crate) const CHANNEL_CLOSE: u8 = 97;
pub(crate) const CHANNEL_REQUEST: u8 = 98;
pub(crate) const CHANNEL_SUCCESS: u8 = 99;
pub(crate) const CHANNEL_FAILURE: u8 = 100;

/// Extended data of this type is standard error (RFC 4254, section 5.2).
pub(crate) const STDERR: u32 = 1;

/// Why a channel is not opened (RFC 4254, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Refusal {
    ConnectFailed = 2,
    UnknownType = 3,
    ResourceShortage = 4,
}

/// What a client asks a channel to be.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) kind: String,
    pub(crate) peer: u32,
    pub(crate) window: u32,
    pub(crate) max_packet: u32,
    pub(crate) extra: Reader,
}

/// A request on a channel, or a global one.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) want_reply: bool,
    pub(crate) extra: Reader,
}

/// A message from the client. Channel numbers in it are ours.
#[derive(Debug)]
pub(crate) enum Message {
    Global(Request),
    Open(Open),
    Confirmed {
        channel: u32,
        peer: u32,
        window: u32,
        max_packet: u32,
    },
    Refused {
        channel: u32,
        description: String,
    },
    WindowAdjust {
        channel: u32,
        bytes: u32,
    },
    Data {
        channel: u32,
        data: Bytes,
    },
    ExtendedData {
        channel: u32,
        data: Bytes,
    },
    Eof {
        channel: u32,
    },
    Close {
        channel: u32,
    },
    Request {
        channel: u32,
        request: Request,
    },
    /// A reply to a request of ours; we make none that wants one.
    Reply,
    Unknown(u8),
}

impl Message {
    pub(crate) fn parse(packet: Bytes) -> Result<Self, Truncated> {
        let mut reader = Reader::new(packet);
        let kind = reader.u8()?;
        Ok(match kind {
            GLOBAL_REQUEST => Self::Global(request(reader)?),
            REQUEST_SUCCESS | REQUEST_FAILURE | CHANNEL_SUCCESS | CHANNEL_FAILURE => Self::Reply,
            CHANNEL_OPEN => Self::Open(Open {
                kind: reader.text()?,
                peer: reader.u32()?,
                window: reader.u32()?,
                max_packet: reader.u32()?,
                extra: reader,
            }),
            CHANNEL_OPEN_CONFIRMATION => Self::Confirmed {
                channel: reader.u32()?,
                peer: reader.u32()?,
                window: reader.u32()?,
                max_packet: reader.u32()?,
            },
            CHANNEL_OPEN_FAILURE => {
                let (channel, _reason) = (reader.u32()?, reader.u32()?);
                Self::Refused { channel, description: reader.text()? }
            }
            CHANNEL_WINDOW_ADJUST => Self::WindowAdjust { channel: reader.u32()?, bytes: reader.u32()? },
            CHANNEL_DATA => Self::Data { channel: reader.u32()?, data: reader.string()? },
            CHANNEL_EXTENDED_DATA => {
                let (channel, _type) = (reader.u32()?, reader.u32()?);
                Self::ExtendedData { channel, data: reader.string()? }
            }
            CHANNEL_EOF => Self::Eof { channel: reader.u32()? },
            CHANNEL_CLOSE => Self::Close { channel: reader.u32()? },
            CHANNEL_REQUEST => Self::Request { channel: reader.u32()?, request: request(reader)? },
            other => Self::Unknown(other),
        })
    }
}

fn request(mut reader: Reader) -> Result<Request, Truncated> {
    Ok(Request { name: reader.text()?, want_reply: reader.bool()?, extra: reader })
}

/// `CHANNEL_OPEN_FAILURE` with a description that clients show to people.
pub(crate) fn refused(peer: u32, reason: Refusal, description: &str) -> Bytes {
    Writer::message(CHANNEL_OPEN_FAILURE)
        .u32(peer)
        .u32(reason as u32)
        .string(description)
        .string("en")
        .finish()
}

/// A message that holds a channel number and nothing else.
pub(crate) fn bare(kind: u8, peer: u32) -> Bytes {
    Writer::message(kind).u32(peer).finish()
}

/// A channel request of ours; none wants a reply.
pub(crate) fn channel_request(peer: u32, name: &str, extra: Bytes) -> Bytes {
    Writer::message(CHANNEL_REQUEST).u32(peer).string(name).bool(false).raw(extra).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_never_panics(packet: Vec<u8>) {
            let _ = Message::parse(packet.into());
        }

        #[test]
        fn parsing_known_types_never_panics(kind in 80u8..=100, rest: Vec<u8>) {
            let _ = Message::parse(Writer::message(kind).raw(rest).finish());
        }
    }

    #[test]
    fn parses_an_open_with_its_extra_data() {
        let packet = Writer::message(CHANNEL_OPEN)
            .string("direct-tcpip")
            .u32(7)
            .u32(100)
            .u32(50)
            .string("host")
            .u32(80)
            .finish();
        let Ok(Message::Open(mut open)) = Message::parse(packet) else { panic!("not an open") };
        assert_eq!(
            (open.kind.as_str(), open.peer, open.window, open.max_packet),
            ("direct-tcpip", 7, 100, 50)
        );
        assert_eq!((open.extra.text(), open.extra.u32()), (Ok("host".to_owned()), Ok(80)));
        assert!(open.extra.is_empty());
    }
}
