//! Sessions: long-lived shells that run commands one after another (toolbox contract 8), and the entrypoint, which is one of them (9).

mod command;
mod delete;
mod driver;
mod entrypoint;
mod follow;
mod follower;
mod log;
pub(crate) mod routes;
mod shell;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::toolbox::process as wire;
use pinfold_spawn::Process;
use pinfold_spawn::tree::Mark;
use tokio::sync::{mpsc, watch};

use self::command::{Command, Job, Manner, State};
use self::driver::Ended;
use self::log::Log;
use self::shell::Shell;
use crate::launch::explain;
use crate::{Processes, Settings};

pub use self::entrypoint::{COMMAND_ID as ENTRYPOINT_COMMAND, log_path as entrypoint_log_path};
pub use self::follower::Follower;

/// The id of the session that runs the image's own command.
pub const ENTRYPOINT: &str = "entrypoint";
/// Commands that may wait in one session.
const MAX_WAITING: usize = 1024;

/// All sessions, by id.
pub(crate) type Sessions = Mutex<HashMap<String, Arc<Session>>>;

/// A session as everybody sees it. Its driver owns the shell.
#[derive(Debug)]
pub(crate) struct Session {
    id: String,
    directory: PathBuf,
    process: Arc<Process>,
    mark: Mark,
    commands: Mutex<Vec<Arc<Command>>>,
    jobs: mpsc::Sender<Job>,
    ended: watch::Receiver<Option<Ended>>,
    /// Whether it was deleted: it takes no more commands, and its id may be another session's by now.
    deleted: AtomicBool,
}

/// Where sessions keep their commands' logs.
fn sessions_directory(home: &Path) -> PathBuf {
    home.join(".daytona/sessions")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids become directory names.
fn check_id(id: &str) -> ApiResult<()> {
    let bad = |why: &str| Err(ApiError::bad_request(format_args!("bad request: session id {id:?} {why}")));
    match id {
        "" => Err(ApiError::invalid_body("sessionId is required")),
        "." | ".." => bad("is not a name"),
        ENTRYPOINT => bad("is reserved"),
        _ if id.len() > 255 => bad("is longer than 255 bytes"),
        _ if id.contains(['/', '\0']) => bad("holds a slash or a NUL byte"),
        _ => Ok(()),
    }
}

fn refuse_reserved(id: &str) -> ApiResult<()> {
    if id == ENTRYPOINT { check_id(id) } else { Ok(()) }
}

impl Processes {
    /// Starts a session.
    async fn create_session(&self, id: &str, at_home: bool) -> ApiResult<()> {
        check_id(id)?;
        let directory = if at_home { &self.sandbox.home } else { &self.sandbox.work_dir };
        let hangs = |error| ApiError::internal(explain(&error, directory));
        self.sandbox.spawner.look(directory).await.map_err(hangs)?;
        self.insert_session(id, directory).map(drop)
    }

    fn insert_session(&self, id: &str, start: &Path) -> ApiResult<Arc<Session>> {
        // Held while the shell starts, a millisecond: two requests for one id must not both start one.
        let mut sessions = lock(&self.sessions);
        if sessions.contains_key(id) {
            return Err(ApiError::conflict(format_args!("conflict: session {id:?} already exists")));
        }
        let max = self.settings.max_sessions;
        if sessions.len() >= max && id != ENTRYPOINT {
            return Err(ApiError::too_many(max, "sessions", "PINFOLD_MAX_SESSIONS"));
        }
        let mark = Mark::new(uuid::Uuid::new_v4().to_string());
        let shell = Shell::start(&self.sandbox, &self.shell(), start, &mark)?;
        let directory = sessions_directory(&self.sandbox.home).join(id);
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let (ending, ended) = watch::channel(None);
        let session = Arc::new(Session {
            id: id.to_owned(),
            directory,
            process: Arc::clone(&shell.process),
            mark,
            commands: Mutex::default(),
            jobs,
            ended,
            deleted: AtomicBool::new(false),
        });
        tokio::spawn(driver::drive(
            shell,
            waiting,
            ending,
            session.mark.clone(),
            self.sandbox.spawner.oom_kills().clone(),
            self.settings.strikes,
        ));
        sessions.insert(id.to_owned(), Arc::clone(&session));
        Ok(session)
    }

    fn session(&self, id: &str) -> ApiResult<Arc<Session>> {
        let found = lock(&self.sessions).get(id).cloned();
        found.ok_or_else(|| ApiError::not_found(format_args!("not found: session {id:?} not found")))
    }

    /// Ordered by id; the entrypoint is not listed.
    fn list_sessions(&self) -> Vec<wire::Session> {
        let sessions: Vec<Arc<Session>> = lock(&self.sessions).values().cloned().collect();
        let mut list: Vec<_> = sessions.iter().filter(|s| s.id != ENTRYPOINT).map(|s| s.wire()).collect();
        list.sort_by(|a, b| a.session_id.cmp(&b.session_id));
        list
    }
}

impl Session {
    fn wire(&self) -> wire::Session {
        wire::Session {
            session_id: self.id.clone(),
            commands: lock(&self.commands).iter().map(|command| command.wire()).collect(),
            ended: self.process.exited().map(pinfold_spawn::Exit::shell_code),
        }
    }

    fn command(&self, id: &str) -> ApiResult<Arc<Command>> {
        let found = lock(&self.commands).iter().find(|command| command.id == id).cloned();
        found.ok_or_else(|| ApiError::not_found(format_args!("not found: command {id:?} not found")))
    }

    /// 410 once the shell is gone.
    fn check_alive(&self) -> ApiResult<()> {
        if self.is_deleted() {
            return Err(self.gone(None, None));
        }
        match (self.ended.borrow().as_ref(), self.process.exited()) {
            (None, None) => Ok(()),
            (ended, exit) => Err(self.gone(ended.cloned(), exit)),
        }
    }

    fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    fn gone(&self, ended: Option<Ended>, exit: Option<pinfold_spawn::Exit>) -> ApiError {
        let how = ended.as_ref().map(|e| e.exit).or(exit);
        let how = how.map_or_else(
            || "was deleted".to_owned(),
            |exit| match exit {
                pinfold_spawn::Exit::Code(code) => format!("exited with code {code}"),
                pinfold_spawn::Exit::Signal(signal) => format!("was killed by signal {signal}"),
            },
        );
        let said = ended.and_then(|e| e.complaint).map(|text| format!(": {text}")).unwrap_or_default();
        let message = format_args!("gone: the shell of session {:?} {how}{said}", self.id);
        ApiError::gone(message).code("SESSION_ENDED")
    }

    /// Hands a command to the shell's queue, unless the session was deleted.
    fn submit(
        &self,
        id: String,
        text: String,
        manner: Manner,
        settings: &Settings,
    ) -> ApiResult<Arc<Command>> {
        // Held from the look at the session to the last of its files: a delete, which holds it too, finds all of them or forbids them.
        let mut commands = lock(&self.commands);
        self.check_alive()?;
        let slot = self.jobs.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => {
                let message = format_args!("{MAX_WAITING} commands wait in session {:?} already", self.id);
                ApiError::new(http::StatusCode::TOO_MANY_REQUESTS, message)
            }
            mpsc::error::TrySendError::Closed(()) => {
                self.gone(self.ended.borrow().clone(), self.process.exited())
            }
        })?;
        let log = Log::create(&self.directory.join(&id), settings.session_log_max);
        let log = log.map_err(|error| {
            ApiError::internal(format_args!("could not create the command's log: {error}"))
        })?;
        let job = Job::new(id, text, log, manner);
        let command = Arc::clone(&job.command);
        commands.push(Arc::clone(&command));
        while commands.len() > settings.max_remembered
            && let Some(oldest) = commands.iter().position(|c| matches!(c.state(), State::Ended { .. }))
        {
            let forgotten = commands.remove(oldest);
            let _ = std::fs::remove_dir_all(self.directory.join(&forgotten.id));
        }
        // In the list's order: both happen under its lock.
        slot.send(job);
        Ok(command)
    }
}
