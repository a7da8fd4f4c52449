//! The names of sessions. Each change is one step under one lock, so that names cannot be taken twice and a kill frees a name at once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_spawn::Sandbox;
use pinfold_spawn::tree::Scope;

use super::shell::{Plan, Session};
use crate::PtyError;
use crate::relay::output::Limits;

/// What can be set about PTY sessions.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many there may be.
    pub max: usize,
    /// One that has had neither client nor output for as long is ended; absent means never.
    pub idle: Option<Duration>,
    /// Whether a kill spares what has detached itself (`setsid`, `nohup`), unless the request says otherwise.
    pub keep_detached: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max: 1024, idle: None, keep_detached: false }
    }
}

/// Why a session was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CreateError {
    /// The name is in use.
    #[error("the PTY session {0:?} exists already")]
    Exists(String),
    /// There are so many sessions already.
    #[error("there are {0} PTY sessions already")]
    Full(usize),
    /// The shell did not start.
    #[error("could not start the shell of the PTY session {id:?}: {source}")]
    Start { id: String, source: PtyError },
}

/// All sessions of a sandbox. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    sandbox: Sandbox,
    sessions: Arc<Mutex<HashMap<String, Arc<Session>>>>,
    settings: Settings,
}

impl Registry {
    pub(super) fn new(sandbox: Sandbox, settings: Settings) -> Self {
        Self { sandbox, sessions: Arc::default(), settings }
    }

    /// What is meant by a kill that does not say.
    pub(super) fn keeps_detached(&self) -> bool {
        self.settings.keep_detached
    }

    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a session and, unless it is lazy, starts its shell. On failure the name is free again.
    pub(super) async fn create(&self, plan: Plan) -> Result<Arc<Session>, CreateError> {
        if !plan.lazy_start {
            // Before the name is taken: who gives up meanwhile has left nothing.
            self.look(&plan.id, &plan.cwd).await?;
        }
        let session = {
            let mut sessions = self.sessions();
            if sessions.contains_key(&plan.id) {
                return Err(CreateError::Exists(plan.id));
            }
            if sessions.len() >= self.settings.max {
                return Err(CreateError::Full(self.settings.max));
            }
            let session = Session::new(plan, Limits::default());
            sessions.insert(session.id().to_owned(), Arc::clone(&session));
            session
        };
        if !session.is_lazy() {
            self.start_now(&session)?;
        }
        if let Some(limit) = self.settings.idle {
            tokio::spawn(self.clone().end_when_idle(Arc::clone(&session), limit));
        }
        Ok(session)
    }

    /// Starts a session's shell, unless it was started already. If its directory hangs the session stays, for a later client.
    pub(super) async fn start(&self, session: &Arc<Session>) -> Result<(), CreateError> {
        if session.is_waiting() {
            self.look(session.id(), session.cwd()).await?;
        }
        self.start_now(session)
    }

    async fn look(&self, id: &str, directory: &Path) -> Result<(), CreateError> {
        let hangs = |error| CreateError::Start { id: id.to_owned(), source: PtyError::Spawn(error) };
        self.sandbox.spawner.look(directory).await.map_err(hangs)
    }

    fn start_now(&self, session: &Arc<Session>) -> Result<(), CreateError> {
        let registry = self.clone();
        let ended = Arc::clone(session);
        session.start(&self.sandbox, move || registry.forget(&ended)).map_err(|source| {
            self.forget(session);
            CreateError::Start { id: session.id().to_owned(), source }
        })
    }

    async fn end_when_idle(self, session: Arc<Session>, limit: Duration) {
        if session.log.abandoned(limit).await {
            tracing::info!(id = session.id(), ?limit, "ended a PTY session that nobody used");
            self.forget(&session);
            session.kill(Scope::Everything).await;
        }
    }

    /// Removes this very session; another that took its name stays.
    fn forget(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        if sessions.get(session.id()).is_some_and(|s| Arc::ptr_eq(s, session)) {
            sessions.remove(session.id());
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions().get(id).cloned()
    }

    /// Takes a name away.
    pub(super) fn remove(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions().remove(id)
    }

    /// All sessions, in no order.
    pub(super) fn list(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }
}
