//! One session: its facts, and its way from waiting over running to ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use pinfold_proto::toolbox::pty::{DEFAULT_TERM, SessionInfo};
use pinfold_spawn::tree::{Mark, Scope};
use pinfold_spawn::{Exit, Process, Sandbox};

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
    /// On everything that the shell starts, wherever it goes.
    mark: Mark,
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
        let (created_at, stage) = (Timestamp::now(), Mutex::new(Stage::Waiting));
        // Unique: no two are made by one daemon in one nanosecond under one name.
        let mark = Mark::new(format!("pty-{}-{}", created_at.as_nanosecond(), plan.id));
        Arc::new(Self { plan, mark, created_at, size, stage, log })
    }

    pub(super) fn id(&self) -> &str {
        &self.plan.id
    }

    /// Where its shell starts.
    pub(super) fn cwd(&self) -> &Path {
        &self.plan.cwd
    }

    /// Whether its shell has not been started yet.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.stage(), Stage::Waiting)
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
        self.mark.apply(&mut command);
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

    /// Kills the shell and what `scope` means of all that it has started; a session that was not started never will be.
    pub(super) async fn kill(&self, scope: Scope) {
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
            Some(process) => {
                let mark = self.mark.clone();
                drop(tokio::task::spawn_blocking(move || process.kill_family(&mark, scope)).await);
            }
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
