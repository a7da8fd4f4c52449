//! What clients type: one queue for each session, in order of arrival, bounded in bytes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The most bytes that wait for a terminal whose program does not read. A client that sends more is not read from until there is room.
const MAX_WAITING: u32 = 4 << 20;
/// The most messages that wait, however small.
const MAX_MESSAGES: usize = 1024;

/// One message, and the room it takes until it is typed.
#[derive(Debug)]
pub(crate) struct Typed {
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The sending end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    queue: mpsc::Sender<Typed>,
    room: Arc<Semaphore>,
}

impl Input {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Typed>) {
        let (queue, typed) = mpsc::channel(MAX_MESSAGES);
        (Self { queue, room: Arc::new(Semaphore::new(MAX_WAITING as usize)) }, typed)
    }

    /// Types `bytes`, waiting for room. What is typed to a session that has ended is dropped.
    pub(crate) async fn send(&self, bytes: Bytes) {
        let size = u32::try_from(bytes.len()).unwrap_or(MAX_WAITING).min(MAX_WAITING);
        if let Ok(room) = Arc::clone(&self.room).acquire_many_owned(size).await {
            let _ = self.queue.send(Typed { bytes, _room: room }).await;
        }
    }
}
