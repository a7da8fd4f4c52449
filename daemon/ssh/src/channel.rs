//! One open channel: flow control both ways, and the order of its messages.
//!
//! Invariants: we never send more than the peer's window, nor anything after our close; the peer never gets more window than it has data taken out of
//! [`Channel::read`], so what is kept for a channel is bounded by [`WINDOW`]; a channel whose reader is slow stops that channel and no other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use russh::server::{Handle, PacketPermit};
use tokio::sync::Notify;

use crate::message::{
    self, CHANNEL_CLOSE, CHANNEL_DATA, CHANNEL_EOF, CHANNEL_EXTENDED_DATA, CHANNEL_WINDOW_ADJUST,
};
use crate::wire::Writer;

/// How much a peer may send before we have taken any of it.
pub(crate) const WINDOW: u32 = 2 << 20;
/// The largest data message we take.
pub(crate) const MAX_PACKET: u32 = 64 << 10;
/// Window is given back in steps of this, so that small reads do not each cost a message.
const GRANT_STEP: u32 = WINDOW / 8;
/// Larger messages are queued as they are; smaller ones are gathered, so that a window of one-byte messages costs no more than one of large ones.
const GATHER_BELOW: usize = 4 << 10;
/// No message of ours is larger, whatever the peer would take.
const MAX_SENT_PACKET: u32 = 64 << 10;

/// The channel, or the connection, is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub(crate) struct Closed;

/// The peer sent more than its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more data than the window allows")]
pub(crate) struct WindowExceeded;

/// An open channel. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Channel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peer: u32,
    max_packet: usize,
    handle: Handle,
    sending: Mutex<Sending>,
    /// Told when `sending` gains window or is closed.
    writable: Notify,
    receiving: Mutex<Receiving>,
    /// Told when `receiving` gains data, its end, or is closed.
    readable: Notify,
}

#[derive(Debug)]
struct Sending {
    window: u64,
    eof: bool,
    closed: bool,
    /// Closed because the connection is lost.
    cut: bool,
}

#[derive(Debug, Default)]
struct Receiving {
    chunks: VecDeque<Bytes>,
    gathered: BytesMut,
    /// What the peer may still send.
    window: u32,
    /// Taken, and not yet given back as window.
    taken: u32,
    /// No more will come.
    ended: bool,
    /// Nobody reads any more.
    discard: bool,
}

/// What a reader finds.
enum Taken {
    /// Data, and window to give back for it.
    Data(Bytes, Option<u32>),
    Nothing,
    End,
}

impl Channel {
    /// `peer`, `window` and `max_packet` are the other side's.
    pub(crate) fn new(handle: Handle, peer: u32, window: u32, max_packet: u32) -> Self {
        Self(Arc::new(Inner {
            peer,
            max_packet: max_packet.clamp(1, MAX_SENT_PACKET) as usize,
            handle,
            sending: Mutex::new(Sending { window: window.into(), eof: false, closed: false, cut: false }),
            writable: Notify::new(),
            receiving: Mutex::new(Receiving { window: WINDOW, ..Receiving::default() }),
            readable: Notify::new(),
        }))
    }

    /// The other side's number of this channel.
    pub(crate) fn peer(&self) -> u32 {
        self.0.peer
    }

    /// The most that one call of [`Channel::write`] sends in one message.
    pub(crate) fn max_packet(&self) -> usize {
        self.0.max_packet
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.0.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receiving(&self) -> MutexGuard<'_, Receiving> {
        self.0.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what the peer sends: called by the connection, never waits

    /// Takes data in. Gives back a message to send at once, if it is one that grants window.
    pub(crate) fn receive(&self, data: Bytes) -> Result<Option<Bytes>, WindowExceeded> {
        let mut receiving = self.receiving();
        let length = u32::try_from(data.len()).map_err(|_| WindowExceeded)?;
        receiving.window = receiving.window.checked_sub(length).ok_or(WindowExceeded)?;
        if receiving.discard || receiving.ended {
            receiving.taken += length;
            return Ok(receiving.grant().map(|bytes| self.grant_message(bytes)));
        }
        receiving.push(data);
        drop(receiving);
        self.0.readable.notify_one();
        Ok(None)
    }

    /// The peer will send no more data.
    pub(crate) fn receive_eof(&self) {
        self.receiving().ended = true;
        self.0.readable.notify_one();
    }

    /// The peer takes this much more.
    pub(crate) fn receive_window(&self, bytes: u32) {
        let mut sending = self.sending();
        sending.window = sending.window.saturating_add(bytes.into()).min(u32::MAX.into());
        drop(sending);
        self.0.writable.notify_waiters();
    }

    /// The peer closed the channel: nothing more is sent, and nothing more will come. What came can still be read. Says whether our close is still due.
    pub(crate) fn hang_up(&self) -> bool {
        let was_closed = std::mem::replace(&mut self.sending().closed, true);
        self.receiving().ended = true;
        self.0.writable.notify_waiters();
        self.0.readable.notify_one();
        !was_closed
    }

    /// The connection is lost: nothing can be sent, and what was not read is dropped.
    pub(crate) fn cut_off(&self) {
        {
            let mut sending = self.sending();
            sending.closed = true;
            sending.cut = true;
        }
        {
            let mut receiving = self.receiving();
            receiving.ended = true;
            receiving.discard = true;
            receiving.chunks.clear();
            receiving.gathered.clear();
        }
        self.0.writable.notify_waiters();
        self.0.readable.notify_one();
    }

    // ---- what we send

    /// The next data, `None` at its end. One reader at a time. Not cancel-safe: dropped while it gives window back, it loses what it has taken.
    pub(crate) async fn read(&self) -> Option<Bytes> {
        loop {
            let readable = self.0.readable.notified();
            match self.take() {
                Taken::Data(data, grant) => {
                    if let Some(bytes) = grant {
                        // The connection is gone if this fails; the data read is still good.
                        let _ = self.0.handle.packet(self.grant_message(bytes)).await;
                    }
                    return Some(data);
                }
                Taken::Nothing => readable.await,
                Taken::End => return None,
            }
        }
    }

    fn take(&self) -> Taken {
        let mut receiving = self.receiving();
        match receiving.pop() {
            Some(data) => Taken::Data(data, receiving.grant()),
            None if receiving.ended => Taken::End,
            None => Taken::Nothing,
        }
    }

    /// Takes the peer's data and throws it away from now on: whoever read it is gone.
    pub(crate) async fn discard_input(&self) {
        let grant = {
            let mut receiving = self.receiving();
            receiving.discard = true;
            while receiving.pop().is_some() {}
            receiving.grant()
        };
        if let Some(bytes) = grant {
            let _ = self.0.handle.packet(self.grant_message(bytes)).await;
        }
    }

    /// Sends all of `data`, waiting for the peer's window.
    pub(crate) async fn write(&self, data: &[u8]) -> Result<(), Closed> {
        self.write_as(None, data).await
    }

    /// Sends all of `data` as extended data of this type.
    pub(crate) async fn write_extended(&self, kind: u32, data: &[u8]) -> Result<(), Closed> {
        self.write_as(Some(kind), data).await
    }

    async fn write_as(&self, kind: Option<u32>, mut data: &[u8]) -> Result<(), Closed> {
        while !data.is_empty() {
            let writable = self.0.writable.notified();
            if self.window()? == 0 {
                writable.await;
                continue;
            }
            let permit = self.0.handle.reserve_packet().await.map_err(|_| Closed)?;
            data = self.send_part(permit, kind, data)?;
        }
        Ok(())
    }

    fn window(&self) -> Result<u64, Closed> {
        let sending = self.sending();
        if sending.closed || sending.eof { Err(Closed) } else { Ok(sending.window) }
    }

    /// Takes window and queues a message in one step, so that nothing of ours can come after our close; gives back what is left to send.
    fn send_part<'d>(
        &self,
        permit: PacketPermit<'_>,
        kind: Option<u32>,
        data: &'d [u8],
    ) -> Result<&'d [u8], Closed> {
        let mut sending = self.sending();
        if sending.closed {
            return Err(Closed);
        }
        let length =
            data.len().min(self.0.max_packet).min(usize::try_from(sending.window).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(data);
        }
        sending.window -= length as u64;
        let (now, later) = data.split_at(length);
        let head = match kind {
            None => Writer::with_capacity(9 + length).u8(CHANNEL_DATA).u32(self.0.peer),
            Some(kind) => {
                Writer::with_capacity(13 + length).u8(CHANNEL_EXTENDED_DATA).u32(self.0.peer).u32(kind)
            }
        };
        permit.send(head.string(now).finish());
        Ok(later)
    }

    /// Says that no more data comes from us.
    pub(crate) async fn eof(&self) -> Result<(), Closed> {
        let permit = self.0.handle.reserve_packet().await.map_err(|_| Closed)?;
        let mut sending = self.sending();
        if sending.closed || sending.eof {
            return Err(Closed);
        }
        sending.eof = true;
        permit.send(message::bare(CHANNEL_EOF, self.0.peer));
        Ok(())
    }

    /// Sends a channel request that wants no reply.
    pub(crate) async fn request(&self, name: &str, extra: Bytes) -> Result<(), Closed> {
        let permit = self.0.handle.reserve_packet().await.map_err(|_| Closed)?;
        if self.sending().closed {
            return Err(Closed);
        }
        permit.send(message::channel_request(self.0.peer, name, extra));
        Ok(())
    }

    /// Closes our side, after everything sent before.
    pub(crate) async fn close(&self) {
        let Ok(permit) = self.0.handle.reserve_packet().await else { return };
        {
            let mut sending = self.sending();
            if sending.closed {
                return;
            }
            sending.closed = true;
            permit.send(message::bare(CHANNEL_CLOSE, self.0.peer));
        }
        self.0.writable.notify_waiters();
        self.discard_input().await;
    }

    /// Answers the peer's close with ours, behind what is queued already.
    pub(crate) async fn answer_close(&self) {
        if let Ok(permit) = self.0.handle.reserve_packet().await {
            permit.send(message::bare(CHANNEL_CLOSE, self.0.peer));
        }
    }

    /// Waits until the channel is closed by either side.
    pub(crate) async fn closed(&self) {
        self.until(|sending| sending.closed).await;
    }

    /// Waits until the connection is lost.
    pub(crate) async fn lost(&self) {
        self.until(|sending| sending.cut).await;
    }

    async fn until(&self, condition: impl Fn(&Sending) -> bool) {
        loop {
            let changed = self.0.writable.notified();
            if condition(&self.sending()) {
                return;
            }
            changed.await;
        }
    }

    fn grant_message(&self, bytes: u32) -> Bytes {
        Writer::message(CHANNEL_WINDOW_ADJUST).u32(self.0.peer).u32(bytes).finish()
    }
}

impl Receiving {
    fn push(&mut self, data: Bytes) {
        if data.len() < GATHER_BELOW {
            self.gathered.extend_from_slice(&data);
            return;
        }
        if !self.gathered.is_empty() {
            self.chunks.push_back(self.gathered.split().freeze());
        }
        self.chunks.push_back(data);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front().or_else(|| {
            let gathered = self.gathered.split();
            (!gathered.is_empty()).then(|| gathered.freeze())
        })?;
        // A chunk is never larger than the window it came through.
        self.taken += u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        Some(chunk)
    }

    /// Window to give back now, if it is worth a message.
    fn grant(&mut self) -> Option<u32> {
        if self.taken < GRANT_STEP {
            return None;
        }
        let bytes = std::mem::take(&mut self.taken);
        self.window += bytes;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever the sizes: bytes come out in order, and never is more held or granted than the window.
        #[test]
        fn keeps_order_and_bound(sizes in proptest::collection::vec(0usize..20_000, 0..400), pops in proptest::collection::vec(any::<bool>(), 400)) {
            let mut receiving = Receiving { window: WINDOW, ..Receiving::default() };
            let (mut sent, mut got, mut next) = (Vec::new(), Vec::new(), 0u8);
            for (size, pop) in sizes.into_iter().zip(pops) {
                let size = size.min(receiving.window as usize);
                let data: Vec<u8> = (0..size).map(|_| { next = next.wrapping_add(1); next }).collect();
                receiving.window -= u32::try_from(size).unwrap();
                sent.extend_from_slice(&data);
                receiving.push(data.into());
                if pop && let Some(chunk) = receiving.pop() {
                    got.extend_from_slice(&chunk);
                    receiving.grant();
                }
                let held = u32::try_from(sent.len() - got.len()).unwrap();
                prop_assert_eq!(receiving.window + held + receiving.taken, WINDOW);
            }
            while let Some(chunk) = receiving.pop() {
                got.extend_from_slice(&chunk);
            }
            prop_assert_eq!(sent, got);
        }
    }
}
