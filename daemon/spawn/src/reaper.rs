//! The single owner of `wait`.
//!
//! Invariants: between `fork` and the registration of the new pid no child is reaped, and while somebody signals a child its pid stays its own.
//! Spawning and signalling hold the gate for reading, reaping holds it for writing. The reaper first *peeks* (`WNOWAIT`) at a dead child, publishes
//! its status, and only then frees its pid.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use nix::unistd::Pid;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::watch;

use crate::oom::Kills;
use crate::{Exit, tree, wait};

/// What a shell reports of a child that was killed: the kernel's victims end so.
const SHELL_KILLED: i32 = 137;

type Children = Mutex<HashMap<i32, Watched>>;

/// A child that somebody waits for.
#[derive(Debug)]
struct Watched {
    exit: watch::Sender<Option<Exit>>,
    ended: Arc<OnceLock<u64>>,
}

/// What whoever started a child learns of its end.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// How.
    pub(crate) exit: watch::Receiver<Option<Exit>>,
    /// When at the latest, in clock ticks since boot: until then its pid was its own. Known before `exit`.
    pub(crate) at: Arc<OnceLock<u64>>,
}

/// Pids that somebody waits for.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Read-locked while spawning and signalling, write-locked while reaping.
    gate: RwLock<()>,
    children: Children,
    kills: Kills,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self { gate: RwLock::default(), children: Children::default(), kills: Kills::open() }
    }

    pub(crate) fn kills(&self) -> &Kills {
        &self.kills
    }

    /// Runs `fork` and registers the pid it returns, with no chance for the reaper in between.
    pub(crate) fn register<T, E>(
        &self,
        fork: impl FnOnce() -> Result<(Pid, T), E>,
    ) -> Result<(Pid, T, End), E> {
        let _spawning = self.hold();
        let (pid, value) = fork()?;
        let (sender, exit) = watch::channel(None);
        let at = Arc::<OnceLock<u64>>::default();
        let watched = Watched { exit: sender, ended: Arc::clone(&at) };
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(pid.as_raw(), watched);
        Ok((pid, value, End { exit, at }))
    }

    /// Keeps every pid of our children from being freed. Must not be held over an await.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaps every dead child; ours are published, adopted orphans just go.
    pub(crate) fn reap(&self) {
        let reaping = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut suspicious = false;
        while let Some((pid, exit)) = wait::peek() {
            suspicious |= exit.shell_code() == SHELL_KILLED;
            let owner = self.children.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw());
            if let Some(owner) = owner {
                let _ = owner.ended.set(tree::now());
                owner.exit.send_replace(Some(exit));
            } else {
                tracing::debug!(pid = pid.as_raw(), ?exit, "reaped an orphan");
            }
            wait::free(pid);
        }
        drop(reaping);
        if suspicious {
            self.kills.look();
        }
    }
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
