//! Connections that the client asks for: to a host and port, or to a socket's path, as seen from inside the sandbox.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpStream, UnixStream};

use crate::connection::Shared;
use crate::forward::relay::relay;
use crate::forward::resolve;
use crate::message::{Open, Refusal};

/// A connection attempt that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `direct-tcpip` (RFC 4254, section 7.2).
pub(crate) async fn direct_tcp(shared: Arc<Shared>, id: u32, open: Open, host: String, port: u32) {
    let mut lost = shared.lost();
    let connected = tokio::select! {
        connected = connect(&host, port) => connected,
        () = lost.wait() => return,
    };
    match connected {
        Ok(mut stream) => {
            let _ = stream.set_nodelay(true);
            if let Ok(channel) = shared.confirm(id, &open).await {
                let (reader, writer) = stream.split();
                relay(channel, reader, writer).await;
            }
        }
        Err(error) => {
            shared
                .refuse(
                    id,
                    &open,
                    Refusal::ConnectFailed,
                    &format!("could not connect to {host} port {port}: {error}"),
                )
                .await;
        }
    }
}

async fn connect(host: &str, port: u32) -> io::Result<TcpStream> {
    let port =
        u16::try_from(port).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such port"))?;
    let attempt = async {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in resolve::lookup(host).await? {
            match TcpStream::connect((address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Serves `direct-streamlocal@openssh.com` (OpenSSH's PROTOCOL, section 2.4).
pub(crate) async fn direct_socket(shared: Arc<Shared>, id: u32, open: Open, path: Bytes) {
    let path = shared.served.sandbox.resolve(OsStr::from_bytes(&path));
    match UnixStream::connect(&path).await {
        Ok(mut stream) => {
            if let Ok(channel) = shared.confirm(id, &open).await {
                let (reader, writer) = stream.split();
                relay(channel, reader, writer).await;
            }
        }
        Err(error) => {
            let description = format!("could not connect to {}: {error}", path.display());
            shared.refuse(id, &open, Refusal::ConnectFailed, &description).await;
        }
    }
}
