//! Starting processes.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::reaper::{self, Registry};
use crate::{Exit, tree};

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The executable is missing, may not be run, or the working directory is missing.
    #[error("could not start {program:?} in {directory}: {source}")]
    Start {
        /// What was to be run.
        program: String,
        /// Where.
        directory: String,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// The signal handler could not be installed.
    #[error("could not watch for ending processes: {0}")]
    Watch(std::io::Error),
}

/// Starts processes and reaps them. Cheap to clone; one per daemon.
#[derive(Debug, Clone)]
pub struct Spawner {
    registry: Arc<Registry>,
}

impl Spawner {
    /// Starts the reaper on the current runtime. Call once, early: from then on nothing else in this process may wait for children.
    ///
    /// If this process is not PID 1 it becomes a child subreaper, so that double-forked descendants stay within reach of [`tree`].
    pub fn start() -> Result<Self, SpawnError> {
        if std::process::id() != 1
            && let Err(error) = nix::sys::prctl::set_child_subreaper(true)
        {
            tracing::warn!(%error, "orphans will not be adopted");
        }
        let registry = Arc::new(Registry::default());
        let signals = reaper::child_signals().map_err(SpawnError::Watch)?;
        tokio::spawn(reaper::run(Arc::clone(&registry), signals));
        Ok(Self { registry })
    }

    /// Starts `command`. Its `stdin`, `stdout` and `stderr` are whatever the caller set; piped ones come back in the [`Process`].
    ///
    /// The caller decides about process group or session: `command.process_group(0)` keeps the quick `posix_spawn` path.
    pub fn spawn(&self, mut command: Command) -> Result<Process, SpawnError> {
        let started = self.registry.register(|| {
            let child = command.spawn()?;
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            Ok::<_, std::io::Error>((pid, child))
        });
        let (pid, child, exit) = started.map_err(|source| {
            let directory = command.get_current_dir().unwrap_or(std::path::Path::new("."));
            SpawnError::Start {
                program: command.get_program().to_string_lossy().into_owned(),
                directory: directory.display().to_string(),
                source,
            }
        })?;
        Ok(Process {
            pid,
            exit,
            stdin: child.stdin.map(OwnedFd::from),
            stdout: child.stdout.map(OwnedFd::from),
            stderr: child.stderr.map(OwnedFd::from),
        })
    }
}

/// A started process. Dropping it neither kills nor forgets the process: the reaper collects it all the same.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    /// Write end of its standard input, if piped.
    pub stdin: Option<OwnedFd>,
    /// Read end of its standard output, if piped.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error, if piped.
    pub stderr: Option<OwnedFd>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A receiver that turns to `Some` when the process has ended.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end. Cancel-safe, and may be called by many.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // The guard is gone before the next await, or this future could not move between threads.
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        match ended {
            Some(exit) => exit,
            // The reaper lives as long as the runtime; without it there is nobody left to ask.
            None => std::future::pending().await,
        }
    }

    /// Signals the process alone. Signalling one that has ended does nothing: its pid may be somebody else's by then.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        if self.exited().is_some() { Ok(()) } else { kill(self.pid, signal) }
    }

    /// Signals the process group that this process leads.
    pub fn signal_group(&self, signal: Signal) -> Result<(), Errno> {
        match killpg(self.pid, signal) {
            Err(Errno::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Kills the process, its group and every descendant, those in sessions of their own included.
    pub fn kill_tree(&self) {
        tree::kill_tree(self.pid, Signal::SIGKILL);
    }
}
