//! Commands, sessions and the entrypoint: what runs in a sandbox, its output and its end (toolbox contract 6, 8, 9).
//!
//! The daemon owns every pipe. Shells and commands get theirs by path, so no helper process, FIFO or temporary file stands between, and nothing polls.

mod body;
mod execute;
mod launch;
mod outputs;
mod pipe;
mod session;
mod spool;
mod text;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use pinfold_spawn::Sandbox;
use tokio::sync::Semaphore;

pub use execute::{Ended, Program};
pub use session::{ENTRYPOINT, ENTRYPOINT_COMMAND, Follower, entrypoint_log_path};

/// What the operator decides.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Time between `SIGTERM` and `SIGKILL` when a session is deleted.
    pub grace: Duration,
    /// How often a dying process is looked at where the kernel cannot tell of its end.
    pub check: Duration,
    /// Most bytes of output kept for one executed command.
    pub execute_output_max: u64,
    /// Most bytes of output kept for one session command.
    pub session_log_max: u64,
    /// Commands that `/process/execute` and `/process/code-run` run at once.
    pub max_running: usize,
    /// Sessions at one time.
    pub max_sessions: usize,
    /// Commands that one session remembers; beyond that the oldest that have ended are forgotten, with their logs.
    pub max_remembered: usize,
    /// How often a session's command that ran into its time limit is struck, a tenth of a second apart, before the session's shell is: it may not have had
    /// the processor since to tell that the command is over.
    pub strikes: u32,
    /// Whether deleting a session spares what has detached itself (`setsid`, `nohup`), unless the request says otherwise.
    pub keep_detached: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            check: Duration::from_millis(100),
            execute_output_max: 256 << 20,
            session_log_max: 1 << 30,
            max_running: 1024,
            max_sessions: 1024,
            max_remembered: 10_000,
            // Together they are less than the SDK waits.
            strikes: 20,
            keep_detached: false,
        }
    }
}

/// Everything that runs on behalf of clients. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Processes {
    sandbox: Sandbox,
    settings: Settings,
    /// Instead of the sandbox's shell.
    shell: Option<PathBuf>,
    sessions: Arc<session::Sessions>,
    /// A place for each executed command.
    running: Arc<Semaphore>,
}

impl Processes {
    /// Nothing runs yet.
    pub fn new(sandbox: Sandbox, settings: Settings) -> Self {
        Self {
            sandbox,
            settings,
            shell: None,
            sessions: Arc::default(),
            running: Arc::new(Semaphore::new(settings.max_running)),
        }
    }

    /// Uses this shell rather than the one that `/etc/shells` leads to.
    #[must_use]
    pub fn with_shell(mut self, shell: impl Into<PathBuf>) -> Self {
        self.shell = Some(shell.into());
        self
    }

    /// The sandbox they run in.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn shell(&self) -> PathBuf {
        self.shell.clone().unwrap_or_else(|| launch::shell(&self.sandbox))
    }

    /// The routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/process/execute", post(execute::execute))
            .route("/process/tree", get(tree::list))
            .merge(session::routes::router())
            .with_state(self.clone())
    }
}
