//! A queue of messages between the two halves of a relay, whose fullness stops the reading that fills it.
//!
//! Putting in never waits: it happens in a session's only loop, which must go on writing. What stops instead is the stream that this loop reads from
//! ([`crate::gated`]), so the queue exceeds its limit by one message at most.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

/// The queue is full from here on.
pub(crate) const LIMIT: usize = 2 << 20;
/// A message costs this much beside its bytes.
const OVERHEAD: usize = 64;

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// Who waits for room.
    reader: Option<Waker>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Told when there is a message, or no more will come.
    filled: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let waker = {
            let mut queue = self.queue();
            queue.ended = true;
            queue.reader.take()
        };
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The end that messages go into. The queue ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Inlet(Arc<Shared>);

/// The end that messages come out of.
#[derive(Debug)]
pub(crate) struct Outlet(Arc<Shared>);

/// What a reading stream asks whether it may go on.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Shared>);

/// A new, empty queue.
pub(crate) fn flow() -> (Inlet, Outlet, Gate) {
    let shared = Arc::new(Shared::default());
    (Inlet(Arc::clone(&shared)), Outlet(Arc::clone(&shared)), Gate(shared))
}

impl Inlet {
    /// Puts a message in. Never waits.
    pub(crate) fn put(&self, message: Bytes) {
        let mut queue = self.0.queue();
        if queue.ended {
            return;
        }
        queue.bytes += message.len() + OVERHEAD;
        queue.messages.push_back(message);
        drop(queue);
        self.0.filled.notify_one();
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Outlet {
    /// The next message, `None` after the last. Cancel-safe.
    pub(crate) async fn next(&self) -> Option<Bytes> {
        loop {
            let filled = self.0.filled.notified();
            match self.take() {
                Some(message) => return Some(message),
                None if self.0.queue().ended => return None,
                None => filled.await,
            }
        }
    }

    fn take(&self) -> Option<Bytes> {
        let (message, waker) = {
            let mut queue = self.0.queue();
            let message = queue.messages.pop_front()?;
            queue.bytes -= message.len() + OVERHEAD;
            let waker = if queue.bytes < LIMIT { queue.reader.take() } else { None };
            (message, waker)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(message)
    }
}

impl Drop for Outlet {
    /// Nobody takes messages any more: they are dropped, and the reader runs free to find out that its peer is gone.
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.messages.clear();
        queue.bytes = 0;
        drop(queue);
        self.0.end();
    }
}

impl Gate {
    /// Ready while there is room.
    pub(crate) fn poll_open(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.0.queue();
        if queue.bytes < LIMIT || queue.ended {
            return Poll::Ready(());
        }
        queue.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn closes_at_the_limit_and_opens_below_it() {
        let (inlet, outlet, gate) = flow();
        poll_fn(|cx| gate.poll_open(cx)).await;
        inlet.put(Bytes::from(vec![1; LIMIT]));
        let reader = tokio::spawn(async move { poll_fn(|cx| gate.poll_open(cx)).await });
        tokio::task::yield_now().await;
        assert!(!reader.is_finished(), "the gate is open though the queue is full");
        assert_eq!(outlet.next().await.unwrap().len(), LIMIT);
        reader.await.unwrap();
        drop(inlet);
        assert_eq!(outlet.next().await, None);
    }

    #[tokio::test]
    async fn keeps_order_and_delivers_what_was_put_before_the_end() {
        let (inlet, outlet, _gate) = flow();
        for n in 0..100u8 {
            inlet.put(Bytes::from(vec![n]));
        }
        drop(inlet);
        for n in 0..100u8 {
            assert_eq!(outlet.next().await.as_deref(), Some(&[n][..]));
        }
        assert_eq!(outlet.next().await, None);
    }

    #[tokio::test]
    async fn a_reader_is_freed_when_nobody_takes() {
        let (inlet, outlet, gate) = flow();
        inlet.put(Bytes::from(vec![1; LIMIT]));
        drop(outlet);
        poll_fn(|cx| gate.poll_open(cx)).await;
        inlet.put(Bytes::from(vec![1; LIMIT]));
        assert!(inlet.0.queue().messages.is_empty());
    }
}
