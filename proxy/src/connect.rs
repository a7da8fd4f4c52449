//! Where a request goes, and the connections to it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

/// Where a request goes. Connections are pooled for each distinct value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// This address.
    Address(SocketAddr),
    /// This port of 127.0.0.1 or, if nobody listens there, of ::1.
    Localhost(u16),
}

impl Upstream {
    fn parse(uri: &Uri) -> Option<Self> {
        let host = uri.host()?;
        let port = uri.port_u16()?;
        if host == "localhost" {
            return Some(Self::Localhost(port));
        }
        let ip: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(Self::Address(SocketAddr::new(ip, port)))
    }

    fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::Address(address) => vec![address],
            Self::Localhost(port) => {
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            }
        }
    }
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
        }
    }
}

/// When a connection was made. A request that began later found it in the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Born(pub(crate) Instant);

/// Opens connections for the client, whose URIs have an [`Upstream`] as authority.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connector {
    pub(crate) timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let deadline = tokio::time::Instant::now() + self.timeout;
        Box::pin(async move {
            let upstream = Upstream::parse(&uri).ok_or(io::ErrorKind::InvalidInput)?;
            match tokio::time::timeout_at(deadline, connect(upstream)).await {
                Ok(stream) => stream,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// The first candidate that accepts. In turn rather than at once: a server that listens on both would see connections that carry nothing.
async fn connect(upstream: Upstream) -> io::Result<Stream> {
    let mut first_error = None;
    for address in upstream.candidates() {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Stream { io: TokioIo::new(stream), born: Born(Instant::now()) });
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// A connection that knows when it was made.
#[derive(Debug)]
pub(crate) struct Stream {
    io: TokioIo<TcpStream>,
    born: Born,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.born)
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_names_its_upstream() {
        for upstream in [
            Upstream::Localhost(80),
            Upstream::Address(([10, 0, 0, 7], 2280).into()),
            "[::1]:9".parse::<SocketAddr>().unwrap().into(),
        ] {
            let uri: Uri = format!("http://{upstream}/x").parse().unwrap();
            assert_eq!(Upstream::parse(&uri), Some(upstream));
        }
    }
}
