//! Starting processes.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOMEM};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use pinfold_cgroup::Kernel;
use tokio::sync::watch;

use crate::directory::Directories;
use crate::oom::Kills;
use crate::reaper::{self, End, Registry};
use crate::tree::{Mark, Scope};
use crate::{AnySignal, Exit, oom, signals, tree};

/// In a fork storm every call meets the limit; the log hears of it once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(10);

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
    /// The working directory does not answer: its file system hangs. Nothing has run.
    #[error("working directory {directory} has not answered for {waited:?}: its file system hangs")]
    Hangs {
        /// Where it was to be run.
        directory: String,
        /// How long was waited, for this directory or by who looked at it before.
        waited: Duration,
    },
    /// The sandbox is full: its limit of processes, of memory or of descriptors is reached. Nothing has run, and it may be tried again.
    #[error("could not start {program:?}: {}: {source}", full(source, *tasks))]
    NoRoom {
        /// What was to be run.
        program: String,
        /// How many processes and threads there are, and may be, if that is limited.
        tasks: Option<(u64, u64)>,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// The signal handler could not be installed.
    #[error("could not watch for ending processes: {0}")]
    Watch(std::io::Error),
}

/// Whether an error means that the system has no room now for another process, descriptor or page.
pub fn is_no_room(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAGAIN | ENOMEM | EMFILE | ENFILE))
}

/// Which limit it was.
fn full(error: &std::io::Error, tasks: Option<(u64, u64)>) -> String {
    match (error.raw_os_error(), tasks) {
        (Some(EAGAIN), Some((now, most))) => {
            format!("the sandbox runs {now} of at most {most} processes and threads")
        }
        (Some(EMFILE | ENFILE), _) => "the daemon has no file descriptor left".to_owned(),
        (Some(ENOMEM), _) => "the sandbox has no memory left".to_owned(),
        _ => "the sandbox has no room for another process".to_owned(),
    }
}

/// Puts a lack of room into the log.
fn say(error: &SpawnError) {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
        *said = Some(Instant::now());
        tracing::warn!(%error, "the sandbox is full");
    }
}

/// What the sandbox's cgroup says of its processes and threads.
fn tasks() -> Option<(u64, u64)> {
    let group = Kernel::default().own().ok()?;
    Some((group.pids().ok()?, group.pids_limit().ok()??.value))
}

/// Starts processes and reaps them. Cheap to clone; one per daemon.
#[derive(Debug, Clone)]
pub struct Spawner {
    registry: Arc<Registry>,
    childrens_oom_score: Option<i32>,
    directories: Arc<Directories>,
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
        signals::catch_ignored();
        let registry = Arc::new(Registry::new());
        let signals = reaper::child_signals().map_err(SpawnError::Watch)?;
        tokio::spawn(reaper::run(Arc::clone(&registry), signals));
        let directories = Arc::new(Directories::new());
        Ok(Self { registry, childrens_oom_score: oom::childrens_score(), directories })
    }

    /// What the kernel killed here for want of memory.
    pub fn oom_kills(&self) -> &Kills {
        self.registry.kills()
    }

    /// Waits until `directory` answers, but not for long. Call it before a process is started in a directory of somebody else's choosing: where a file
    /// system hangs, [`Spawner::spawn`] hangs too, and everybody with it.
    pub async fn look(&self, directory: &Path) -> Result<(), SpawnError> {
        self.directories.look(directory).await
    }

    /// Starts `command`. Its `stdin`, `stdout` and `stderr` are whatever the caller set; piped ones come back in the [`Process`].
    ///
    /// The caller decides about process group or session: `command.process_group(0)` keeps the quick `posix_spawn` path.
    pub fn spawn(&self, mut command: Command) -> Result<Process, SpawnError> {
        let started = self.registry.register(|| {
            let child = command.spawn()?;
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            if let Some(score) = self.childrens_oom_score {
                oom::set(pid, score);
            }
            Ok::<_, std::io::Error>((pid, child))
        });
        let (pid, child, end) = started.map_err(|source| {
            let program = command.get_program().to_string_lossy().into_owned();
            if is_no_room(&source) {
                let error = SpawnError::NoRoom { program, tasks: tasks(), source };
                say(&error);
                return error;
            }
            let directory = command.get_current_dir().unwrap_or(Path::new("."));
            SpawnError::Start { program, directory: directory.display().to_string(), source }
        })?;
        Ok(Process {
            registry: Arc::clone(&self.registry),
            pid,
            end,
            stdin: child.stdin.map(OwnedFd::from),
            stdout: child.stdout.map(OwnedFd::from),
            stderr: child.stderr.map(OwnedFd::from),
        })
    }
}

/// How often a family is looked for when it is killed.
const PASSES: usize = 32;

/// A started process. Dropping it neither kills nor forgets the process: the reaper collects it all the same.
#[derive(Debug)]
pub struct Process {
    registry: Arc<Registry>,
    pid: Pid,
    end: End,
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
        self.end.exit.clone()
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<Exit> {
        *self.end.exit.borrow()
    }

    /// Waits for its end. Cancel-safe, and may be called by many.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit();
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
        let _no_reaping = self.registry.hold();
        if self.exited().is_some() { Ok(()) } else { kill(self.pid, signal) }
    }

    /// Signals the process group that this process leads. What outlives its leader in the group is signalled too, if the group surely is still the same:
    /// an empty one's number may be somebody else's.
    pub fn signal_group(&self, signal: impl Into<AnySignal>) -> Result<(), Errno> {
        let _no_reaping = self.registry.hold();
        if self.exited().is_some() && !self.group_outlives() {
            return Ok(());
        }
        match signal.into().send_group(self.pid) {
            Err(Errno::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Whether somebody is in the group who was there before its leader ended. As long as the group has members its number cannot be given away.
    fn group_outlives(&self) -> bool {
        // Nearly always nobody is left, and the process table need not be read.
        let nobody = killpg(self.pid, None).is_err_and(|error| error == Errno::ESRCH);
        let ended = self.end.at.get().copied().unwrap_or_default();
        !nobody && tree::all().iter().any(|e| e.group == self.pid.as_raw() && e.started <= ended)
    }

    /// Kills the process, its group and every descendant, those in sessions of their own included. One that has ended has no descendants left.
    pub fn kill_tree(&self) {
        let _no_reaping = self.registry.hold();
        if self.exited().is_none() {
            tree::kill_tree(self.pid, Signal::SIGKILL);
        }
    }

    /// What it has started, wherever that went, itself left out: its descendants, what carries the mark, and, while it runs, who is in the group or the session
    /// that it leads.
    pub fn family(&self, mark: &Mark) -> Vec<tree::Entry> {
        let _no_reaping = self.registry.hold();
        self.family_now(mark)
    }

    /// The same for who keeps the reaper away.
    fn family_now(&self, mark: &Mark) -> Vec<tree::Entry> {
        tree::family(self.pid, mark, self.exited().is_none())
    }

    /// Signals the process and its [`Process::family`], as far as `scope` goes, descendants first (`SIGKILL`: ancestors first). Says which there were
    /// besides the process itself.
    pub fn signal_family(&self, mark: &Mark, scope: Scope, signal: Signal) -> Vec<Pid> {
        let _no_reaping = self.registry.hold();
        let family = tree::within(scope, self.pid, self.family_now(mark));
        let family: Vec<Pid> = family.iter().map(|e| Pid::from_raw(e.pid)).collect();
        let root = || if self.exited().is_none() { kill(self.pid, signal) } else { Ok(()) };
        if signal == Signal::SIGKILL {
            // Parents first: none must live to act on the death of its child.
            let _ = root();
            for pid in &family {
                let _ = kill(*pid, signal);
            }
        } else {
            for pid in family.iter().rev() {
                let _ = kill(*pid, signal);
            }
            let _ = root();
        }
        family
    }

    /// Kills the process and its [`Process::family`], as far as `scope` goes, until a look at the tree finds nobody new: what forks while it dies is met
    /// again. Says whom it killed besides the process itself; they may still be dying.
    pub fn kill_family(&self, mark: &Mark, scope: Scope) -> HashSet<Pid> {
        let mut killed = HashSet::new();
        for _ in 0..PASSES {
            let family = self.signal_family(mark, scope, Signal::SIGKILL);
            if family.into_iter().filter(|pid| killed.insert(*pid)).count() == 0 {
                break;
            }
        }
        killed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::process::CommandExt;

    use super::*;

    /// A group in which one sleeps beside its leader, who ends when its input does.
    fn group(spawner: &Spawner) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 100 & read line"]).process_group(0).stdin(std::process::Stdio::piped());
        spawner.spawn(command).unwrap()
    }

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_group_is_signalled_after_its_leader_only_while_it_is_the_same() {
        let spawner = Spawner::start().unwrap();
        let members = |group: &Process| {
            let group = group.pid().as_raw();
            tree::all().iter().filter(|e| e.group == group && e.name == "sleep" && e.state != 'Z').count()
        };
        let mut remnant = group(&spawner);
        until("the group's member", || members(&remnant) == 1).await;
        drop(remnant.stdin.take());
        remnant.wait().await;
        let ended = *remnant.end.at.get().unwrap();
        assert!(tree::now() >= ended && ended > 0, "{ended}");
        // A later group, led by one who was given the number of a process that ended before.
        until("the clock's next tick", || tree::now() > ended + 1).await;
        let stranger = group(&spawner);
        until("the other group's member", || members(&stranger) == 1).await;
        let forgotten = Process {
            registry: Arc::clone(&remnant.registry),
            pid: stranger.pid(),
            end: remnant.end.clone(),
            stdin: None,
            stdout: None,
            stderr: None,
        };
        forgotten.signal_group(Signal::SIGKILL).unwrap();
        remnant.signal_group(Signal::SIGKILL).unwrap();
        until("the end of the remnant", || members(&remnant) == 0).await;
        // A signal that was sent would have been received in this time: the other group's was sent before.
        assert_eq!((members(&stranger), stranger.exited()), (1, None));
        stranger.signal_group(Signal::SIGKILL).unwrap();
        assert_eq!(stranger.wait().await, Exit::Signal(9));
        // Nobody is left in either.
        until("the empty groups", || members(&stranger) == 0).await;
        remnant.signal_group(Signal::SIGKILL).unwrap();
    }
}
