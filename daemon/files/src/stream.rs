//! Response bodies written by a thread: a directory listing or a search result goes out while it is made, and is never held as a whole.

use std::io;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::sync::mpsc;

/// Bytes gathered before they are sent.
const CHUNK: usize = 64 << 10;
/// Chunks that may wait for a slow client.
const QUEUE: usize = 2;

/// What feeds a body. An error cuts the connection, so that the client knows; an end without one is a proper end.
pub(crate) type Feed = mpsc::Sender<io::Result<Bytes>>;

/// A body fed through a queue of `depth` chunks.
pub(crate) fn body(depth: usize) -> (Feed, Body) {
    let (sender, receiver) = mpsc::channel(depth);
    let chunks = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    (sender, Body::from_stream(chunks))
}

/// Answers with JSON: `open`, then what `produce` pushes, comma-separated, then `close`.
///
/// A client that leaves makes the next push fail, which is how `produce` learns that it may stop.
pub(crate) fn json_list<F>(open: &'static str, close: &'static str, produce: F) -> Response
where
    F: FnOnce(&mut JsonList) -> io::Result<()> + Send + 'static,
{
    let (sender, body) = body(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut list = JsonList { sender, buffer: open.as_bytes().to_vec(), first: true, close };
        match produce(&mut list) {
            Ok(()) => {
                list.buffer.extend_from_slice(list.close.as_bytes());
                let _ = list.flush();
            }
            Err(error) => {
                let _ = list.sender.blocking_send(Err(error));
            }
        }
    });
    ([(CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}

/// The members of a JSON list on their way to the client.
#[derive(Debug)]
pub(crate) struct JsonList {
    sender: Feed,
    buffer: Vec<u8>,
    first: bool,
    close: &'static str,
}

impl JsonList {
    /// Adds one member. Fails when nobody listens any more.
    pub(crate) fn push(&mut self, value: &impl Serialize) -> io::Result<()> {
        if !std::mem::take(&mut self.first) {
            self.buffer.push(b',');
        }
        serde_json::to_writer(&mut self.buffer, value)?;
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// What comes after the list, instead of what was planned.
    pub(crate) fn close_with(&mut self, close: &'static str) {
        self.close = close;
    }

    /// Whether the client has left.
    pub(crate) fn abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    /// What tells whether the client has left, for other threads. The answer does not end while it is held.
    pub(crate) fn client(&self) -> Feed {
        self.sender.clone()
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
