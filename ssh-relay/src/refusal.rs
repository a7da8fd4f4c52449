//! Telling a client why it gets nowhere, in the protocol's own terms, so that its user sees the reason.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const GLOBAL_REQUEST: u8 = 80;
const REQUEST_FAILURE: u8 = 82;
const CHANNEL_OPEN: u8 = 90;
const CHANNEL_OPEN_FAILURE: u8 = 92;
/// `SSH_OPEN_CONNECT_FAILED` (RFC 4254, section 5.1).
const CONNECT_FAILED: u32 = 2;

/// Why a connection is not carried on: one sentence for its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefusalReason(pub String);

impl RefusalReason {
    /// A reason in these words.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The answer to `packet` when there is nowhere to carry it: channels and requests are refused, the rest needs none.
pub(crate) fn answer(mut packet: Bytes, reason: &RefusalReason) -> Option<Bytes> {
    match packet.try_get_u8().ok()? {
        CHANNEL_OPEN => {
            take_string(&mut packet)?;
            let sender = packet.try_get_u32().ok()?;
            let mut answer = BytesMut::with_capacity(32 + reason.0.len());
            answer.put_u8(CHANNEL_OPEN_FAILURE);
            answer.put_u32(sender);
            answer.put_u32(CONNECT_FAILED);
            put_string(&mut answer, reason.0.as_bytes());
            put_string(&mut answer, b"en");
            Some(answer.freeze())
        }
        GLOBAL_REQUEST => {
            take_string(&mut packet)?;
            (packet.try_get_u8().ok()? != 0).then(|| Bytes::from_static(&[REQUEST_FAILURE]))
        }
        _ => None,
    }
}

/// Whether `packet` asks for a channel.
pub(crate) fn opens_channel(packet: &[u8]) -> bool {
    packet.first() == Some(&CHANNEL_OPEN)
}

/// Whether `packet` is the upstream's list of host keys, which would be taken for ours and cannot be proved through another transport.
pub(crate) fn announces_host_keys(packet: &Bytes) -> bool {
    packet.first() == Some(&GLOBAL_REQUEST)
        && take_string(&mut packet.slice(1..)).is_some_and(|name| &name[..] == b"hostkeys-00@openssh.com")
}

fn take_string(packet: &mut Bytes) -> Option<Bytes> {
    let length = packet.try_get_u32().ok()? as usize;
    (length <= packet.len()).then(|| packet.split_to(length))
}

fn put_string(packet: &mut BytesMut, string: &[u8]) {
    packet.put_u32(u32::try_from(string.len()).unwrap_or(u32::MAX));
    packet.put_slice(string);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_packet_is_answered_or_ignored(packet: Vec<u8>) {
            let packet = Bytes::from(packet);
            let _ = announces_host_keys(&packet);
            let _ = answer(packet, &RefusalReason::new("no"));
        }
    }

    #[test]
    fn refuses_a_channel_with_the_reason() {
        let mut open = BytesMut::new();
        open.put_u8(CHANNEL_OPEN);
        put_string(&mut open, b"anything@example");
        open.put_slice(&[0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1]);
        let mut answer = answer(open.freeze(), &RefusalReason::new("it is stopped")).unwrap();
        assert_eq!(
            (answer.get_u8(), answer.get_u32(), answer.get_u32()),
            (CHANNEL_OPEN_FAILURE, 9, CONNECT_FAILED)
        );
        assert_eq!(&take_string(&mut answer).unwrap()[..], b"it is stopped");
    }

    #[test]
    fn fails_only_requests_that_want_an_answer() {
        for (want, answered) in [(1, true), (0, false)] {
            let mut request = BytesMut::new();
            request.put_u8(GLOBAL_REQUEST);
            put_string(&mut request, b"keepalive@openssh.com");
            request.put_u8(want);
            assert_eq!(answer(request.freeze(), &RefusalReason::new("no")).is_some(), answered);
        }
    }
}
