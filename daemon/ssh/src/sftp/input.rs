//! Packets out of a channel's bytes.

use bytes::{Buf, Bytes, BytesMut};
use tokio::runtime::Handle as Runtime;

use crate::channel::Channel;
use crate::sftp::protocol::MAX_PACKET;

/// The client announces a packet that nobody would send.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("a packet of {0} bytes")]
    Size(u32),
    #[error("the last packet is cut short")]
    CutShort,
}

/// Splits what a channel receives into packets, without copying those that came in one piece.
pub(super) struct Input<'a> {
    channel: &'a Channel,
    runtime: &'a Runtime,
    chunk: Bytes,
}

impl<'a> Input<'a> {
    pub(super) fn new(channel: &'a Channel, runtime: &'a Runtime) -> Self {
        Self { channel, runtime, chunk: Bytes::new() }
    }

    /// The next packet without its length, `None` at the end.
    pub(super) fn packet(&mut self) -> Result<Option<Bytes>, InputError> {
        if self.chunk.is_empty() && !self.more() {
            return Ok(None);
        }
        let mut head = self.take(4)?;
        let length = head.get_u32();
        if length == 0 || length > MAX_PACKET {
            return Err(InputError::Size(length));
        }
        self.take(length as usize).map(Some)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, InputError> {
        if self.chunk.len() >= length {
            return Ok(self.chunk.split_to(length));
        }
        let mut gathered = BytesMut::with_capacity(length);
        loop {
            let part = self.chunk.len().min(length - gathered.len());
            gathered.extend_from_slice(&self.chunk.split_to(part));
            if gathered.len() == length {
                return Ok(gathered.freeze());
            }
            if !self.more() {
                return Err(InputError::CutShort);
            }
        }
    }

    fn more(&mut self) -> bool {
        match self.runtime.block_on(self.channel.read()) {
            Some(chunk) => {
                self.chunk = chunk;
                true
            }
            None => false,
        }
    }
}
