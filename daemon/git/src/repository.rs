//! Opening repositories, off the runtime's threads.

use std::convert::Infallible;
use std::path::Path;

use git2::Repository;
use pinfold_http::{ApiError, ApiResult};
use pinfold_spawn::Sandbox;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Kind};
use crate::library;

/// What every route of the engine is made from.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    sandbox: Sandbox,
    /// Held by every operation until it has really ended.
    busy: mpsc::Sender<Infallible>,
}

/// What one operation gets: where it runs, and whether anybody still waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) sandbox: Sandbox,
    pub(crate) cancel: CancellationToken,
    pub(crate) runtime: Handle,
}

impl Context {
    /// The receiver ends when the routes are gone and no operation runs any more.
    pub(crate) fn new(sandbox: Sandbox) -> (Self, mpsc::Receiver<Infallible>) {
        let (busy, idle) = mpsc::channel(1);
        (Self { sandbox, busy }, idle)
    }

    /// Runs an operation, which is cancelled when its caller is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Task) -> Result<T, Failure> + Send + 'static,
    ) -> ApiResult<T> {
        let cancel = CancellationToken::new();
        let task = Task { sandbox: self.sandbox.clone(), cancel: cancel.clone(), runtime: Handle::current() };
        let _on_drop = cancel.drop_guard();
        let busy = self.busy.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _busy = busy;
            library::set_up(&task.sandbox.home)?;
            operation(&task)
        });
        let result = work
            .await
            .map_err(|error| ApiError::internal(format_args!("the git operation broke off: {error}")))?;
        result.map_err(ApiError::from)
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
