//! SFTP's packets: their numbers, their framing, and how failures are told.

use std::io;

use nix::errno::Errno;

use crate::wire::{Truncated, Writer};

/// The largest packet taken, and made; OpenSSH's figure.
pub(super) const MAX_PACKET: u32 = 256 << 10;
/// The most file data in one packet.
pub(super) const MAX_DATA: u32 = MAX_PACKET - 1024;

/// Types of requests.
pub(super) mod request {
    pub(in crate::sftp) const INIT: u8 = 1;
    pub(in crate::sftp) const OPEN: u8 = 3;
    pub(in crate::sftp) const CLOSE: u8 = 4;
    pub(in crate::sftp) const READ: u8 = 5;
    pub(in crate::sftp) const WRITE: u8 = 6;
    pub(in crate::sftp) const LSTAT: u8 = 7;
    pub(in crate::sftp) const FSTAT: u8 = 8;
    pub(in crate::sftp) const SETSTAT: u8 = 9;
    pub(in crate::sftp) const FSETSTAT: u8 = 10;
    pub(in crate::sftp) const OPENDIR: u8 = 11;
    pub(in crate::sftp) const READDIR: u8 = 12;
    pub(in crate::sftp) const REMOVE: u8 = 13;
    pub(in crate::sftp) const MKDIR: u8 = 14;
    pub(in crate::sftp) const RMDIR: u8 = 15;
    pub(in crate::sftp) const REALPATH: u8 = 16;
    pub(in crate::sftp) const STAT: u8 = 17;
    pub(in crate::sftp) const RENAME: u8 = 18;
    pub(in crate::sftp) const READLINK: u8 = 19;
    pub(in crate::sftp) const SYMLINK: u8 = 20;
    pub(in crate::sftp) const EXTENDED: u8 = 200;
}

const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

const OK: u32 = 0;
const EOF: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const FAILURE: u32 = 4;
const BAD_MESSAGE: u32 = 5;
const OP_UNSUPPORTED: u32 = 8;

/// Why a request is not granted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("end of file")]
    Eof,
    #[error("no such handle")]
    NoSuchHandle,
    #[error("too many open handles")]
    TooManyHandles,
    #[error("operation unsupported")]
    Unsupported,
    #[error("the target exists")]
    Exists,
    #[error("only one file can be copied into another")]
    NotTwoFiles,
    #[error("the answer is too long for a packet")]
    TooMuch,
    #[error("this does not read as a request")]
    Malformed(#[from] Truncated),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Failure {
    /// The protocol's code; system errors map as OpenSSH maps them.
    fn code(&self) -> u32 {
        match self {
            Self::Eof => EOF,
            Self::NoSuchHandle | Self::TooManyHandles | Self::Exists | Self::NotTwoFiles | Self::TooMuch => {
                FAILURE
            }
            Self::Unsupported => OP_UNSUPPORTED,
            Self::Malformed(_) => BAD_MESSAGE,
            Self::Io(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EBADF | Errno::ELOOP) => NO_SUCH_FILE,
                Some(Errno::EPERM | Errno::EACCES | Errno::EFAULT) => PERMISSION_DENIED,
                Some(Errno::ENAMETOOLONG | Errno::EINVAL) => BAD_MESSAGE,
                Some(Errno::ENOSYS | Errno::EOPNOTSUPP) => OP_UNSUPPORTED,
                _ => FAILURE,
            },
        }
    }
}

/// A packet being written; its length is filled in at the end.
#[derive(Debug)]
pub(super) struct Reply(Writer);

impl Reply {
    /// A packet of this type, with room for `capacity` bytes of payload.
    pub(super) fn new(kind: u8, id: u32, capacity: usize) -> Self {
        Self(Writer::with_capacity(capacity + 9).u32(0).u8(kind).u32(id))
    }

    /// Adds fields.
    pub(super) fn with(self, fields: impl FnOnce(Writer) -> Writer) -> Self {
        Self(fields(self.0))
    }

    /// The framed packet.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut packet = self.0.into_vec();
        if let Ok(length) = u32::try_from(packet.len() - 4) {
            packet[..4].copy_from_slice(&length.to_be_bytes());
        }
        packet
    }
}

pub(super) fn ok(id: u32) -> Reply {
    Reply::new(STATUS, id, 16).with(|w| w.u32(OK).string("").string(""))
}

pub(super) fn status(id: u32, failure: &Failure) -> Reply {
    Reply::new(STATUS, id, 64).with(|w| w.u32(failure.code()).string(failure.to_string()).string("en"))
}

pub(super) fn handle(id: u32, handle: u32) -> Reply {
    Reply::new(HANDLE, id, 8).with(|w| w.string(handle.to_be_bytes()))
}

pub(super) fn extended(id: u32, fields: impl FnOnce(Writer) -> Writer) -> Reply {
    Reply::new(EXTENDED_REPLY, id, 96).with(fields)
}

/// The answer to `INIT`: version 3 and what is offered beyond it.
pub(super) fn version(extensions: &[(&str, &str)]) -> Vec<u8> {
    let packet = Reply(Writer::with_capacity(512).u32(0).u8(VERSION).u32(3));
    packet.with(|w| extensions.iter().fold(w, |w, (name, data)| w.string(name).string(data))).finish()
}
