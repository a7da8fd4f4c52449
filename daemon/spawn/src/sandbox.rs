//! What every part of the daemon knows about the sandbox it runs in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Environment, Spawner, shell};

/// The sandbox as its daemon sees it. Cheap to clone; each group of routes is made from one.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Starts processes.
    pub spawner: Spawner,
    /// What they get as environment.
    pub environment: Environment,
    /// Base of every relative path and start directory of every process, for the daemon's whole life.
    pub work_dir: Arc<Path>,
    /// `$HOME`.
    pub home: Arc<Path>,
}

impl Sandbox {
    /// An absolute path: `path` itself, or below the work directory. Nothing is expanded.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.work_dir.join(path)
    }

    /// The shell that runs commands.
    pub fn shell(&self) -> PathBuf {
        shell::preferred(self.environment.get("SHELL").as_deref())
    }
}
