//! Opening repositories, one writer at a time, off the runtime's threads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use git2::Repository;
use pinfold_http::{ApiError, ApiResult};
use pinfold_spawn::Sandbox;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Kind};
use crate::library;

/// What every route is made from.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) sandbox: Sandbox,
    locks: Arc<Mutex<HashMap<PathBuf, Weak<AsyncMutex<()>>>>>,
}

/// What one operation gets: where it runs, and whether anybody still waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) sandbox: Sandbox,
    pub(crate) cancel: CancellationToken,
    pub(crate) runtime: Handle,
}

impl Context {
    pub(crate) fn new(sandbox: Sandbox) -> Self {
        Self { sandbox, locks: Arc::default() }
    }

    /// Runs an operation that only reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Task) -> Result<T, Failure> + Send + 'static,
    ) -> ApiResult<T> {
        self.run(None, operation).await
    }

    /// Runs an operation that changes the repository at `path`, after those before it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        path: &str,
        operation: impl FnOnce(&Task) -> Result<T, Failure> + Send + 'static,
    ) -> ApiResult<T> {
        let lock = self.lock(&self.sandbox.resolve(path));
        let guard = lock.lock_owned().await;
        self.run(Some(guard), operation).await
    }

    /// The operation is cancelled when its caller is dropped, and holds the lock until it has really ended.
    async fn run<T: Send + 'static>(
        &self,
        guard: Option<OwnedMutexGuard<()>>,
        operation: impl FnOnce(&Task) -> Result<T, Failure> + Send + 'static,
    ) -> ApiResult<T> {
        let cancel = CancellationToken::new();
        let task = Task { sandbox: self.sandbox.clone(), cancel: cancel.clone(), runtime: Handle::current() };
        let _on_drop = cancel.drop_guard();
        let work = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            library::set_up(&task.sandbox.home)?;
            operation(&task)
        });
        let result = work
            .await
            .map_err(|error| ApiError::internal(format_args!("the git operation broke off: {error}")))?;
        result.map_err(ApiError::from)
    }

    /// The lock of the repository, the same for every spelling of its path.
    fn lock(&self, path: &Path) -> Arc<AsyncMutex<()>> {
        let path = path.canonicalize().unwrap_or_else(|_| path.components().collect());
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&path).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(path, Arc::downgrade(&lock));
        lock
    }
}

impl Task {
    /// The repository whose root is `path`; its parents are not searched.
    pub(crate) fn open(&self, path: &str) -> Result<Repository, Failure> {
        let path = self.sandbox.resolve(path);
        Repository::open(&path).map_err(|error| match error.code() {
            git2::ErrorCode::NotFound => {
                Failure::new(Kind::RepositoryNotFound, format!("{} is not a git repository", path.display()))
            }
            _ => Failure::from(error).during(&format!("could not open {}", path.display())),
        })
    }

    /// Ends the operation when nobody waits for it any more.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Failure::cancelled()) } else { Ok(()) }
    }
}

/// The root of the working tree, without which the route makes no sense.
pub(crate) fn worktree(repository: &Repository) -> Result<&Path, Failure> {
    repository.workdir().ok_or_else(|| Failure::invalid("the repository is bare: it has no working tree"))
}

/// A path as the client gave it, relative to the repository's root. Empty for the root itself.
pub(crate) fn inside(repository: &Repository, path: &str) -> Result<String, Failure> {
    let root = worktree(repository)?;
    let given = Path::new(path);
    let outside = || Failure::invalid(format!("{path:?} is outside of the repository"));
    let relative = if given.is_absolute() {
        let real = given.parent().and_then(|parent| parent.canonicalize().ok());
        let real = real.zip(given.file_name()).map(|(parent, name)| parent.join(name));
        let candidates = [Some(given.to_owned()), real];
        let mut found = candidates.into_iter().flatten();
        found.find_map(|path| path.strip_prefix(root).ok().map(Path::to_owned)).ok_or_else(outside)?
    } else {
        given.to_owned()
    };
    let mut parts = Vec::new();
    for part in relative.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if parts.pop().is_some() => {}
            _ => return Err(outside()),
        }
    }
    Ok(parts.join("/"))
}
