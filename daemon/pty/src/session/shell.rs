//! One session: its facts, and its way from waiting over running to ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use pinfold_proto::toolbox::pty::{DEFAULT_TERM, SessionInfo};
use pinfold_spawn::{Exit, Process, Sandbox, tree};

use crate::relay::input::Input;
use crate::relay::output::{Limits, OutputLog};
use crate::relay::pump;
use crate::{Pty, PtyError, PtyMaster, Size};

/// What a session is made from.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub id: String,
    pub cwd: PathBuf,
    pub envs: BTreeMap<String, String>,
    pub size: Size,
    pub lazy_start: bool,
}

#[derive(Debug)]
enum Stage {
    /// Not started yet.
    Waiting,
    Running(Running),
    /// Ended, killed, or could not be started.
    Ended,
}

#[derive(Debug)]
struct Running {
    process: Arc<Process>,
    master: PtyMaster,
    input: Input,
    killed: bool,
}

/// A named shell on a terminal.
#[derive(Debug)]
pub(super) struct Session {
    plan: Plan,
    created_at: Timestamp,
    size: Mutex<Size>,
    stage: Mutex<Stage>,
    pub log: Arc<OutputLog>,
}

impl Session {
    pub(super) fn new(mut plan: Plan, limits: Limits) -> Arc<Self> {
        let term = plan.envs.entry("TERM".to_owned()).or_default();
        if term.is_empty() {
            DEFAULT_TERM.clone_into(term);
        }
        let size = Mutex::new(plan.size);
        let log = OutputLog::new(limits);
        Arc::new(Self { plan, created_at: Timestamp::now(), size, stage: Mutex::new(Stage::Waiting), log })
    }

    pub(super) fn id(&self) -> &str {
        &self.plan.id
    }

    pub(super) fn is_lazy(&self) -> bool {
        self.plan.lazy_start
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn size(&self) -> Size {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the shell, unless that was done already. `on_end` runs after the last output and before clients hear of the end.
    pub(super) fn start(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<(), PtyError> {
        // Held over the fork: a second client or a kill that comes meanwhile must see either nothing or everything.
        let mut stage = self.stage();
        if !matches!(*stage, Stage::Waiting) {
            return Ok(());
        }
        let (process, master) = match Pty::spawn(sandbox, self.command(sandbox), self.size()) {
            Ok(started) => started,
            Err(error) => {
                *stage = Stage::Ended;
                return Err(error);
            }
        };
        let process = Arc::new(process);
        let (input, typed) = Input::new();
        *stage = Stage::Running(Running {
            process: Arc::clone(&process),
            master: master.clone(),
            input,
            killed: false,
        });
        drop(stage);
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let exit = pump::run(process, master, Arc::clone(&session.log), typed).await;
            // With this the last clone of the master goes, and with it the terminal.
            let was = std::mem::replace(&mut *session.stage(), Stage::Ended);
            let killed = matches!(was, Stage::Running(Running { killed: true, .. }));
            drop(was);
            on_end();
            // A shell that could still note the death of its child before its own has an exit code of its choosing.
            session.log.end(if killed { Exit::Signal(9) } else { exit });
        });
        Ok(())
    }

    fn command(&self, sandbox: &Sandbox) -> Command {
        let mut command = Command::new(sandbox.shell());
        command.args(["-i", "-l"]).current_dir(&self.plan.cwd);
        sandbox.environment.apply(&mut command, &self.plan.envs);
        command
    }

    /// Types `bytes`; waits while the program does not read and the queue is full.
    pub(super) async fn type_in(&self, bytes: Bytes) {
        let input = match &*self.stage() {
            Stage::Running(running) => running.input.clone(),
            _ => return,
        };
        input.send(bytes).await;
    }

    /// Changes the window size. `None` if the session does not run.
    pub(super) fn resize(&self, size: Size) -> Option<std::io::Result<()>> {
        let master = match &*self.stage() {
            Stage::Running(running) => running.master.clone(),
            _ => return None,
        };
        let resized = master.resize(size);
        if resized.is_ok() {
            *self.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
        }
        Some(resized)
    }

    /// Whether it has ended.
    pub(super) fn ended(&self) -> bool {
        matches!(*self.stage(), Stage::Ended)
    }

    /// Kills the shell and everything below it; a session that was not started never will be.
    pub(super) async fn kill(&self) {
        let process = {
            let mut stage = self.stage();
            match &mut *stage {
                Stage::Waiting => {
                    *stage = Stage::Ended;
                    None
                }
                Stage::Running(running) => {
                    running.killed = true;
                    Some(Arc::clone(&running.process))
                }
                Stage::Ended => return,
            }
        };
        match process {
            None => self.log.end(Exit::Signal(9)),
            // Reading the process table is file I/O.
            Some(process) => drop(tokio::task::spawn_blocking(move || kill_tree(&process)).await),
        }
    }

    pub(super) fn info(&self) -> SessionInfo {
        let size = self.size();
        SessionInfo {
            id: self.plan.id.clone(),
            cwd: self.plan.cwd.display().to_string(),
            envs: self.plan.envs.clone(),
            cols: size.cols,
            rows: size.rows,
            created_at: self.created_at.to_string(),
            active: matches!(&*self.stage(), Stage::Running(running) if running.process.exited().is_none()),
            lazy_start: self.plan.lazy_start,
        }
    }
}

/// Kills descendants while the shell lives, again if they were forking meanwhile, then the shell: orphans could not be found any more.
fn kill_tree(process: &Process) {
    const PASSES: usize = 3;
    for _ in 0..PASSES {
        if process.exited().is_some() {
            return;
        }
        let descendants = tree::descendants(process.pid());
        if descendants.is_empty() {
            break;
        }
        for pid in descendants.into_iter().rev() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    process.kill_tree();
}
