//! A connection of our own to the engine: bollard has no call for a build of this kind, nor for a session.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use pinfold_proto::error::chain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket in the filesystem.
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
}

/// The engine's address as bollard finds it, or why it is none that can be used here.
pub(super) fn address() -> Result<Address, String> {
    parse(&std::env::var("DOCKER_HOST").unwrap_or_default())
}

fn parse(host: &str) -> Result<Address, String> {
    match host.split_once("://") {
        None if host.is_empty() => Ok(Address::Unix("/var/run/docker.sock".into())),
        Some(("unix", path)) => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", address)) => Ok(Address::Tcp(address.trim_end_matches('/').to_owned())),
        _ => Err(format!("BuildKit is reached over unix:// and tcp:// only, not at {host}")),
    }
}

/// A connection; closed when dropped.
pub(super) struct Connection {
    pub(super) sender: SendRequest<UnsyncBoxBody<Bytes, io::Error>>,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn open() -> Result<Self, String> {
        let stream = match address()? {
            Address::Unix(path) => UnixStream::connect(&path).await.map(Stream::Unix),
            Address::Tcp(address) => TcpStream::connect(&address).await.map(Stream::Tcp),
        };
        let stream = stream.map_err(|e| e.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
        let task = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(Self { sender, _task: AbortOnDropHandle::new(task) })
    }
}

/// Either kind of socket.
#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_docker_host() {
        assert_eq!(parse(""), Ok(Address::Unix("/var/run/docker.sock".into())));
        assert_eq!(parse("unix:///x.sock"), Ok(Address::Unix("/x.sock".into())));
        assert_eq!(parse("tcp://h:2375/"), Ok(Address::Tcp("h:2375".to_owned())));
        assert!(parse("ssh://h").is_err());
    }
}
