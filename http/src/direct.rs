//! The socket below a connection, for a handler that has a thread of its own and a large body to read.
//!
//! The pieces of a body pass through the connection's buffer and the runtime's queues; a thread that reads the socket itself copies them once and is
//! woken once. A handler asks for the socket while it takes the pieces that come; at the moment the connection would read on, the handler gets a
//! duplicate of the socket instead, and the connection never reads again. What it had read came before, so nothing is lost or out of order. As the
//! connection does not know where the body ends any more, the answer is its last.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

type Answer = oneshot::Sender<io::Result<OwnedFd>>;

/// An extension of each request that came over a bare socket.
#[derive(Debug, Clone, Default)]
pub struct Socket(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: AtomicBool,
    by: Mutex<Option<Answer>>,
}

impl Socket {
    /// The socket, non-blocking, once the connection has passed on every byte that it had read.
    ///
    /// The caller has to take the body's pieces meanwhile; more than the body's length must not be read afterwards. An error (no descriptor is left)
    /// means that the connection reads on as before.
    pub async fn take(&self) -> io::Result<OwnedFd> {
        let (answer, socket) = oneshot::channel();
        *self.0.by.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.0.asked.store(true, Ordering::Release);
        socket.await.map_err(io::Error::other)?
    }

    /// Whether the connection does not read any more.
    pub(crate) fn is_taken(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Hands the socket over if it is asked for. True if reading is over.
    fn hand_over(&self, socket: &impl AsFd) -> bool {
        let asker = self.0.by.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(asker) = asker else { return true };
        let duplicate = socket.as_fd().try_clone_to_owned();
        let failed = duplicate.is_err();
        self.0.asked.store(!failed, Ordering::Release);
        let _ = asker.send(duplicate);
        !failed
    }
}

/// A stream whose reading ends when its [`Socket`] is taken.
#[derive(Debug)]
pub(crate) struct Direct<S> {
    stream: S,
    socket: Socket,
}

impl<S> Direct<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, socket: Socket::default() }
    }

    pub(crate) fn socket(&self) -> Socket {
        self.socket.clone()
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Direct<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.socket.is_taken() && self.socket.hand_over(&self.stream) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Direct<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }
}
