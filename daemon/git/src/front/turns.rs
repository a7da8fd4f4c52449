//! One writer at a time for each repository.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The right to change a repository, until it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// Who may change which repository. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    locks: Arc<Mutex<HashMap<PathBuf, Weak<AsyncMutex<()>>>>>,
}

impl Turns {
    /// Waits until those before are done with what is at `path`, however that is spelled.
    pub(super) async fn wait(&self, path: &Path) -> Turn {
        let real = tokio::fs::canonicalize(path).await;
        let path = real.unwrap_or_else(|_| path.components().collect());
        self.lock(path).lock_owned().await
    }

    /// The lock of the repository at a path without links.
    fn lock(&self, path: PathBuf) -> Arc<AsyncMutex<()>> {
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
