//! Ports and sockets that the client asks us to listen on: each connection to one becomes a channel to the client.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::connection::Shared;
use crate::forward::relay::relay;
use crate::forward::resolve;
use crate::wire::{Reader, Truncated, Writer};

/// After a failure to accept, such as having no descriptors left, accepting pauses.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listeners of one connection.
#[derive(Debug)]
pub(crate) struct Forwards {
    shared: Arc<Shared>,
    ports: HashMap<(String, u32), Vec<Task>>,
    sockets: HashMap<PathBuf, Task>,
}

/// A listener and its task. When this is dropped nobody can connect any more, and the task ends.
#[derive(Debug)]
struct Task {
    listener: OwnedFd,
    accepting: JoinHandle<()>,
}

impl Task {
    fn start(listener: OwnedFd, accepting: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { listener, accepting: tokio::spawn(accepting) }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // The task, and the listener in it, end a moment later; the client is told before.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        self.accepting.abort();
    }
}

impl Forwards {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ports: HashMap::new(), sockets: HashMap::new() }
    }

    /// Answers a global request: `Some` is success with this payload, `None` failure, which is also what keepalives get.
    pub(crate) fn request(&mut self, name: &str, mut extra: Reader) -> Result<Option<Bytes>, Truncated> {
        Ok(match name {
            "tcpip-forward" => self.listen_tcp(extra.text()?, extra.u32()?),
            "cancel-tcpip-forward" => self.ports.remove(&(extra.text()?, extra.u32()?)).map(|_| Bytes::new()),
            "streamlocal-forward@openssh.com" => self.listen_socket(extra.string()?),
            "cancel-streamlocal-forward@openssh.com" => {
                let path = self.shared.served.sandbox.resolve(OsStr::from_bytes(&extra.string()?));
                if self.sockets.remove(&path).is_some() {
                    let _ = std::fs::remove_file(&path);
                }
                Some(Bytes::new())
            }
            _ => None,
        })
    }

    fn has_room(&self) -> bool {
        self.ports.len() + self.sockets.len() < self.shared.served.config.max_listeners
    }

    fn listen_tcp(&mut self, address: String, asked: u32) -> Option<Bytes> {
        let wanted = u16::try_from(asked).ok().filter(|_| self.has_room())?;
        let listeners = bind(&address, wanted)
            .inspect_err(
                |error| tracing::debug!(address, port = wanted, %error, "could not listen for a forward"),
            )
            .ok()?;
        let port = u32::from(listeners.first()?.local_addr().ok()?.port());
        if self.ports.contains_key(&(address.clone(), port)) {
            return None;
        }
        let mut tasks = Vec::new();
        for listener in listeners {
            let descriptor = listener.as_fd().try_clone_to_owned().ok()?;
            let accepting = accept_tcp(Arc::clone(&self.shared), listener, address.clone(), port);
            tasks.push(Task::start(descriptor, accepting));
        }
        self.ports.insert((address, port), tasks);
        // Only a client that let us choose is told what we chose (RFC 4254, section 7.1).
        Some(if asked == 0 { Writer::default().u32(port).finish() } else { Bytes::new() })
    }

    fn listen_socket(&mut self, asked: Bytes) -> Option<Bytes> {
        let path = self.shared.served.sandbox.resolve(OsStr::from_bytes(&asked));
        if self.sockets.contains_key(&path) {
            return Some(Bytes::new());
        }
        if !self.has_room() {
            return None;
        }
        let listener = bind_socket(&path)
            .inspect_err(
                |error| tracing::debug!(path = %path.display(), %error, "could not listen for a forward"),
            )
            .ok()?;
        let descriptor = listener.as_fd().try_clone_to_owned().ok()?;
        let task = Task::start(descriptor, accept_socket(Arc::clone(&self.shared), listener, asked));
        self.sockets.insert(path, task);
        Some(Bytes::new())
    }
}

impl Drop for Forwards {
    fn drop(&mut self) {
        for (path, task) in self.sockets.drain() {
            drop(task);
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens on every address that `address` stands for: empty or `*` is all of them.
fn bind(address: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let addresses: Vec<IpAddr> = match address {
        "" | "*" => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
        other => resolve::literal(other)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an address"))?,
    };
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        // One port for all families, once the first has been given one.
        let port = listeners.first().and_then(|l| l.local_addr().ok()).map_or(port, |a| a.port());
        let bound = StdListener::bind(SocketAddr::new(address, port));
        match bound.and_then(|l| l.set_nonblocking(true).and_then(|()| TcpListener::from_std(l))) {
            Ok(listener) => listeners.push(listener),
            // An IPv6 wildcard takes IPv4 as well, and there may be no IPv6 at all.
            Err(error) => last = error,
        }
    }
    if listeners.is_empty() { Err(last) } else { Ok(listeners) }
}

/// Makes the parent directory, private, and removes a socket or file that is in the way, but never a directory (toolbox contract 19.3).
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path)
        && !there.is_dir()
    {
        std::fs::remove_file(path)?;
    }
    let listener = StdUnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn accept_tcp(shared: Arc<Shared>, listener: TcpListener, address: String, port: u32) {
    loop {
        let (mut stream, from) = accepted(|| listener.accept()).await;
        let _ = stream.set_nodelay(true);
        let extra = Writer::default()
            .string(&address)
            .u32(port)
            .string(from.ip().to_canonical().to_string())
            .u32(from.port().into())
            .finish();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(channel) = shared.open("forwarded-tcpip", extra).await {
                let (reader, writer) = stream.split();
                relay(channel, reader, writer).await;
            }
        });
    }
}

/// `path` is what the client asked for, which is how it knows the forward.
async fn accept_socket(shared: Arc<Shared>, listener: UnixListener, path: Bytes) {
    loop {
        let (mut stream, _) = accepted(|| listener.accept()).await;
        let extra = Writer::default().string(&path).string("").finish();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(channel) = shared.open("forwarded-streamlocal@openssh.com", extra).await {
                let (reader, writer) = stream.split();
                relay(channel, reader, writer).await;
            }
        });
    }
}

/// The next connection; failures to accept are waited out.
pub(super) async fn accepted<T, F: Future<Output = io::Result<T>>>(accept: impl Fn() -> F) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!(%error, "could not accept a forwarded connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
