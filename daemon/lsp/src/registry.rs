//! The servers: at most one for each pair of language and project, started once, replaced when dead.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use pinfold_spawn::Sandbox;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::document;
use crate::error::LspError;
use crate::language::Language;
use crate::server::Server;

type Key = (&'static str, PathBuf);
/// Held while the server is started or stopped, so that a second call waits for the first.
type Slot = Arc<Mutex<Option<Running>>>;

/// A server, alive or not, and its place among those that may be.
#[derive(Debug)]
struct Running {
    server: Arc<Server>,
    _place: OwnedSemaphorePermit,
}

/// All servers of the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) sandbox: Sandbox,
    slots: Arc<StdMutex<BTreeMap<Key, Slot>>>,
    max: usize,
    places: Arc<Semaphore>,
}

impl Registry {
    /// Holds at most `max` servers.
    pub(crate) fn new(sandbox: Sandbox, max: usize) -> Self {
        Self { sandbox, slots: Arc::default(), max, places: Arc::new(Semaphore::new(max)) }
    }

    async fn key(&self, language: &str, project: &str) -> Result<(&'static Language, Key), LspError> {
        let language = Language::find(language)?;
        Ok((language, (language.id, document::path(&self.sandbox, project).await)))
    }

    fn slot(&self, key: &Key) -> Option<Slot> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Starts the server unless it runs.
    pub(crate) async fn start(&self, language: &str, project: &str) -> Result<(), LspError> {
        let (language, key) = self.key(language, project).await?;
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(key.clone()).or_default())
        };
        let mut place = slot.lock().await;
        match place.as_mut() {
            Some(running) if running.server.is_alive() => {}
            Some(dead) => dead.server = Arc::new(Server::start(&self.sandbox, language, &key.1).await?),
            None => {
                let free = Arc::clone(&self.places).try_acquire_owned();
                let _place = free.map_err(|_| LspError::Full(self.max))?;
                let server = Arc::new(Server::start(&self.sandbox, language, &key.1).await?);
                *place = Some(Running { server, _place });
            }
        }
        Ok(())
    }

    /// Stops the server.
    pub(crate) async fn stop(&self, language: &str, project: &str) -> Result<(), LspError> {
        let (language, key) = self.key(language, project).await?;
        let server = match self.slot(&key) {
            Some(slot) => slot.lock().await.take(),
            None => None,
        };
        server.ok_or_else(|| not_started(language, &key))?.server.stop().await;
        Ok(())
    }

    /// The running server. One that has died is started again, and gets its documents.
    pub(crate) async fn server(&self, language: &str, project: &str) -> Result<Arc<Server>, LspError> {
        let (language, key) = self.key(language, project).await?;
        let slot = self.slot(&key).ok_or_else(|| not_started(language, &key))?;
        let mut place = slot.lock().await;
        let running = place.as_mut().ok_or_else(|| not_started(language, &key))?;
        let server = Arc::clone(&running.server);
        if server.is_alive() {
            return Ok(server);
        }
        tracing::warn!(language = language.id, project = %key.1.display(), "the language server has died and is started again");
        let fresh = Arc::new(Server::start(&self.sandbox, language, &key.1).await?);
        for path in server.documents().await {
            // A file may be gone since.
            if let Err(error) = fresh.open(&path).await {
                tracing::warn!(path = %path.display(), %error, "a document was not opened again");
            }
        }
        running.server = Arc::clone(&fresh);
        Ok(fresh)
    }
}

fn not_started(language: &Language, key: &Key) -> LspError {
    LspError::NotStarted { language: language.id.to_owned(), project: key.1.display().to_string() }
}
