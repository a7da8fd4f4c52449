//! The client's authentication agent, as a socket in the sandbox.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::connection::Shared;
use crate::forward::listen::accepted;
use crate::forward::relay::relay;

/// A socket whose connections reach the client's agent. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    directory: PathBuf,
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Agent {
    /// Makes a private directory in the sandbox's temporary directory, and listens in it.
    pub(crate) fn listen(shared: &Arc<Shared>) -> io::Result<Self> {
        let temporary = shared.served.sandbox.environment.get("TMPDIR").filter(|d| !d.is_empty());
        let base = temporary.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let directory = base.join(format!("ssh-{:016x}", rand::random::<u64>()));
        // Fails if it is there: the name is unguessable, so nobody else's directory is ever used.
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let socket = directory.join("agent");
        let listener = UnixListener::bind(&socket).inspect_err(|_| {
            let _ = std::fs::remove_dir(&directory);
        })?;
        let task = tokio::spawn(accept(Arc::clone(shared), listener));
        Ok(Self { directory, socket, task })
    }

    /// What `SSH_AUTH_SOCK` is to be.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_dir(&self.directory);
    }
}

async fn accept(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        let (mut stream, _) = accepted(|| listener.accept()).await;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(channel) = shared.open("auth-agent@openssh.com", Bytes::new()).await {
                let (reader, writer) = stream.split();
                relay(channel, reader, writer).await;
            }
        });
    }
}
