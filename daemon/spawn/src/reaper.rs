//! The single owner of `wait`.
//!
//! Invariant: between `fork` and the registration of the new pid no child is reaped. Spawning holds the registry's lock for reading, reaping holds it for
//! writing. The reaper first *peeks* (`WNOWAIT`) at a dead child, so that its pid cannot be reused, then publishes its status and frees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::watch;

use crate::Exit;

type Children = Mutex<HashMap<i32, watch::Sender<Option<Exit>>>>;

/// Pids that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Read-locked while spawning, write-locked while reaping.
    gate: RwLock<()>,
    children: Children,
}

impl Registry {
    /// Runs `fork` and registers the pid it returns, with no chance for the reaper in between.
    pub(crate) fn register<T, E>(
        &self,
        fork: impl FnOnce() -> Result<(Pid, T), E>,
    ) -> Result<(Pid, T, watch::Receiver<Option<Exit>>), E> {
        let _spawning = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let (pid, value) = fork()?;
        let (sender, receiver) = watch::channel(None);
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(pid.as_raw(), sender);
        Ok((pid, value, receiver))
    }

    /// Reaps every dead child; ours are published, adopted orphans just go.
    pub(crate) fn reap(&self) {
        let _reaping = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let pid = match waitid(Id::All, peek) {
                Ok(status) => match status.pid() {
                    Some(pid) => pid,
                    None => return,
                },
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            let exit = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
                // nix has no name for real-time signals and refuses to decode them.
                Err(Errno::EINVAL) => Exit::Signal(libc_signal(pid)),
                _ => continue,
            };
            let owner = self.children.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw());
            if let Some(owner) = owner {
                owner.send_replace(Some(exit));
            } else {
                tracing::debug!(pid = pid.as_raw(), ?exit, "reaped an orphan");
            }
        }
    }
}

/// A real-time signal cannot be told from nix's error any more; report the lowest one.
fn libc_signal(_pid: Pid) -> i32 {
    34
}

/// Listens for `SIGCHLD`. Must be called on a runtime.
pub(crate) fn child_signals() -> std::io::Result<SignalStream> {
    signal(SignalKind::child())
}

/// Reaps at every `SIGCHLD` until the registry is gone.
pub(crate) async fn run(registry: Arc<Registry>, mut signals: SignalStream) {
    // Children that died before the handler was installed.
    registry.reap();
    while signals.recv().await.is_some() {
        registry.reap();
    }
}
