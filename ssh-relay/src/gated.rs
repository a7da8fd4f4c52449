//! A socket that is read only while the queue it fills has room.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;

use crate::flow::Gate;

/// One read can hold several messages.
const READ_BUFFER: usize = 256 << 10;
/// A peer that vanished is noticed after about this long with nothing said, and again this long without an answer.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The stream that russh gets.
#[derive(Debug)]
pub(crate) struct Gated {
    stream: BufReader<TcpStream>,
    gate: Gate,
}

impl Gated {
    pub(crate) fn new(stream: TcpStream, gate: Gate) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self { stream: BufReader::with_capacity(READ_BUFFER, stream), gate })
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(context));
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
