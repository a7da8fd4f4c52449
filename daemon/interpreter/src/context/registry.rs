//! The contexts of a sandbox.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pinfold_proto::toolbox::interpreter::{ContextInfo, DEFAULT_CONTEXT, PYTHON};
use pinfold_spawn::Sandbox;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use uuid::Uuid;

use super::job::Job;
use super::owner::Owner;
use super::worker::{StartError, Worker};

/// The most executions that wait in one context.
const MAX_WAITING: usize = 256;

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubmitError {
    #[error("the context {0:?} does not exist")]
    Unknown(String),
    #[error("the context {0:?} is being deleted")]
    Deleted(String),
    #[error("{MAX_WAITING} executions wait in the context {0:?} already")]
    Full(String),
}

/// Why a context was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CreateError {
    #[error("there are {0} contexts already")]
    Full(usize),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// One context, as others see it.
#[derive(Debug)]
pub(super) struct Context {
    id: String,
    directory: PathBuf,
    created_at: Timestamp,
    active: Arc<AtomicBool>,
    jobs: mpsc::Sender<Job>,
    deleted: watch::Sender<bool>,
    /// Its place among those that may exist; the default context needs none.
    _place: Option<OwnedSemaphorePermit>,
}

impl Context {
    fn start(
        id: String,
        sandbox: &Sandbox,
        directory: PathBuf,
        started: Option<(Worker, OwnedSemaphorePermit)>,
    ) -> Arc<Self> {
        let (worker, place) = started.unzip();
        let (jobs, queue) = mpsc::channel(MAX_WAITING);
        let (deleted, on_delete) = watch::channel(false);
        let active = Arc::new(AtomicBool::new(worker.is_some()));
        let owner = Owner {
            sandbox: sandbox.clone(),
            directory: directory.clone(),
            jobs: queue,
            deleted: on_delete,
            active: Arc::clone(&active),
            worker,
        };
        tokio::spawn(owner.run());
        Arc::new(Self { id, directory, created_at: Timestamp::now(), active, jobs, deleted, _place: place })
    }

    pub(super) fn info(&self) -> ContextInfo {
        ContextInfo {
            id: self.id.clone(),
            cwd: self.directory.display().to_string(),
            created_at: self.created_at.to_string(),
            active: self.active.load(Ordering::Acquire),
            language: PYTHON.to_owned(),
        }
    }

    fn submit(&self, job: Job) -> Result<(), SubmitError> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Full(self.id.clone()),
            mpsc::error::TrySendError::Closed(_) => SubmitError::Deleted(self.id.clone()),
        })
    }

    /// Ends the context; returns when its worker is gone.
    async fn delete(&self) {
        self.deleted.send_replace(true);
        // The task drops its receiver last.
        self.deleted.closed().await;
    }
}

/// All contexts. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Contexts {
    sandbox: Sandbox,
    contexts: Arc<Mutex<HashMap<String, Arc<Context>>>>,
    max: usize,
    places: Arc<Semaphore>,
}

impl Contexts {
    /// Holds at most `max` contexts besides the default one.
    pub(super) fn new(sandbox: Sandbox, max: usize) -> Self {
        Self { sandbox, contexts: Arc::default(), max, places: Arc::new(Semaphore::new(max)) }
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<String, Arc<Context>>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a context and starts its worker.
    pub(super) async fn create(&self, directory: &str) -> Result<Arc<Context>, CreateError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| CreateError::Full(self.max))?;
        let directory: PathBuf = self.sandbox.resolve(directory).components().collect();
        let worker = Worker::start(&self.sandbox, &directory).await?;
        let started = Some((worker, place));
        let context = Context::start(Uuid::new_v4().to_string(), &self.sandbox, directory, started);
        self.contexts().insert(context.id.clone(), Arc::clone(&context));
        Ok(context)
    }

    /// All contexts but the default one, oldest first.
    pub(super) fn list(&self) -> Vec<Arc<Context>> {
        let mut list: Vec<_> =
            self.contexts().values().filter(|c| c.id != DEFAULT_CONTEXT).cloned().collect();
        list.sort_by_key(|context| (context.created_at, context.id.clone()));
        list
    }

    /// Ends a context; false if there is none with this id.
    pub(super) async fn delete(&self, id: &str) -> bool {
        let removed = self.contexts().remove(id);
        match removed {
            Some(context) => {
                context.delete().await;
                true
            }
            None => false,
        }
    }

    /// Queues a job; an empty id means the default context, which is made on demand.
    pub(super) fn submit(&self, id: &str, job: Job) -> Result<(), SubmitError> {
        let context = {
            let mut contexts = self.contexts();
            if id.is_empty() || id == DEFAULT_CONTEXT {
                let start = || {
                    let directory = self.sandbox.work_dir.to_path_buf();
                    Context::start(DEFAULT_CONTEXT.to_owned(), &self.sandbox, directory, None)
                };
                Arc::clone(contexts.entry(DEFAULT_CONTEXT.to_owned()).or_insert_with(start))
            } else {
                contexts.get(id).cloned().ok_or_else(|| SubmitError::Unknown(id.to_owned()))?
            }
        };
        context.submit(job)
    }
}
