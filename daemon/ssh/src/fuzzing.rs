//! The parsers of this crate for the fuzz targets in `fuzz/`, which are outside of it. No part of its interface.

#![allow(missing_docs)]

use bytes::{Buf, Bytes};
use pinfold_spawn::Sandbox;

use crate::message::Message;
use crate::sftp;

/// An SFTP session of packets, each after two bytes of length. Requests are carried out: call it where nothing can be lost.
pub fn sftp(sandbox: &Sandbox, packets: &[u8]) {
    let mut rest = Bytes::copy_from_slice(packets);
    let requests = std::iter::from_fn(|| {
        if rest.len() < 2 {
            return None;
        }
        let length = usize::from(rest.get_u16()).min(rest.len());
        Some(rest.split_to(length))
    });
    sftp::answers(sandbox.clone(), requests);
}

/// Whether the bytes are a message of the connection protocol.
pub fn message(packet: &[u8]) -> bool {
    Message::parse(Bytes::copy_from_slice(packet)).is_ok()
}
