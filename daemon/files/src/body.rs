//! Where the body of an upload comes from: the connection, piece by piece, or, if it is large, the socket itself.
//!
//! Reading the socket takes a thread for as long as the client sends, and then that thread writes the file as well: each byte is copied twice, as a
//! bare copy from a socket to a file does it, and nobody has to be woken. Only so many uploads may have a thread; the others go through the
//! connection, as do bodies whose length is not known.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use pinfold_http::{ApiResult, Socket};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::blocking;
use crate::buffers::Buffers;

/// Smaller bodies are over before it pays.
const LARGE: u64 = 1 << 20;

/// Bytes read before they are written: the kernel is quicker with few large pieces than with many small ones.
const PIECE: usize = 1 << 20;

/// Threads for uploads. The runtime has some hundreds for everything, and a client may be slow.
const THREADS: usize = 16;

/// The threads that uploads may have, an extension of their requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Threads(Arc<Semaphore>);

impl Default for Threads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(THREADS)))
    }
}

type Piece = Result<Bytes, axum::Error>;

/// What is done with a body. Boxed, because what runs it is large and would else be there once for each route.
pub(crate) type Work = Box<dyn FnOnce(Incoming) -> BoxFuture<'static, ApiResult<Response>> + Send>;

/// Does `work` on the body of a request: on this task or, if the body is read from the socket, on a thread that may block.
pub(crate) async fn receive(request: Request, work: Work) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let mut incoming = Incoming { ahead: VecDeque::new(), connection: body.into_data_stream(), direct: None };
    if HttpBody::size_hint(&incoming.connection).exact().is_some_and(|length| length >= LARGE)
        && let Some(socket) = parts.extensions.get::<Socket>()
        && let Some(Threads(threads)) = parts.extensions.get()
        && let Ok(_thread) = threads.try_acquire()
        && incoming.divert(socket).await
    {
        let runtime = tokio::runtime::Handle::current();
        return blocking(move || runtime.block_on(work(incoming))).await;
    }
    work(incoming).await
}

/// The body of an upload.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What the connection had read before the socket was taken.
    ahead: VecDeque<Piece>,
    /// Everything, or nothing more. It is kept because a connection whose body nobody wants ends before the answer.
    connection: BodyDataStream,
    direct: Option<Direct>,
}

impl Incoming {
    /// Whether reading blocks, so that whoever reads may block as well.
    pub(crate) fn blocks(&self) -> bool {
        self.direct.is_some()
    }

    /// Reads what is left, so that the client has sent all before it is answered.
    pub(crate) async fn drain(&mut self) {
        while let Some(Ok(_)) = self.next().await {}
    }

    /// From now on reads from the socket, if the connection gives it away.
    async fn divert(&mut self, socket: &Socket) -> bool {
        let mut taking = std::pin::pin!(socket.take());
        let socket = loop {
            tokio::select! {
                biased;
                socket = &mut taking => break socket,
                piece = self.connection.next() => match piece {
                    Some(piece) => self.ahead.push_back(piece),
                    None => return false,
                },
            }
        };
        while let Some(Some(piece)) = self.connection.next().now_or_never() {
            self.ahead.push_back(piece);
        }
        let left = HttpBody::size_hint(&self.connection).exact().unwrap_or(0);
        self.direct =
            socket.ok().map(|fd| Direct { socket: Waiting(fd.into()), left, buffers: Buffers::default() });
        self.blocks()
    }
}

impl Stream for Incoming {
    type Item = Piece;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Some(piece) = self.ahead.pop_front() {
            return Poll::Ready(Some(piece));
        }
        match &mut self.direct {
            Some(direct) => Poll::Ready(direct.read().map_err(axum::Error::new).transpose()),
            None => self.connection.poll_next_unpin(cx),
        }
    }
}

/// The rest of a body, still in the socket.
#[derive(Debug)]
struct Direct {
    socket: Waiting,
    left: u64,
    buffers: Buffers,
}

impl Direct {
    fn read(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        match self.buffers.fill(&mut self.socket, wanted) {
            Ok(piece) if piece.len() == wanted => {
                self.left -= wanted as u64;
                Ok(Some(piece))
            }
            outcome => {
                self.left = 0;
                outcome.and(Err(io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }
}

/// A non-blocking socket read as if it were a blocking one: how the connection writes its answer to the same socket must not change.
#[derive(Debug)]
struct Waiting(TcpStream);

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                outcome => return outcome,
            }
        }
    }
}
