//! The sandbox as the daemon finds it at its start: directories, environment, process core.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use pinfold_spawn::{Environment, Sandbox, SpawnError, Spawner};

use crate::config::Config;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `$HOME/.daytona` is missing and cannot be made. A home that is read-only is no reason: sessions then keep their logs elsewhere.
    #[error("could not create {path:?}: {source}")]
    ConfigDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no current directory.
    #[error("the working directory cannot be found: {0}")]
    WorkDir(io::Error),
    /// The process core did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// Settles the directories and starts the process core on the current runtime.
pub fn sandbox(config: &Config) -> Result<Sandbox, StartError> {
    let path = config.home.join(".daytona");
    match std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            tracing::warn!(?path, %error, "the home directory is read-only; session logs go to a temporary directory");
        }
        Err(source) => return Err(StartError::ConfigDir { path, source }),
    }
    if config.home_as_work_dir
        && let Err(error) = std::env::set_current_dir(&config.home)
    {
        tracing::warn!(home = ?config.home, %error, "could not change to the home directory");
    }
    let work_dir = std::env::current_dir().map_err(StartError::WorkDir)?;
    Ok(Sandbox {
        spawner: Spawner::start()?,
        environment: Environment::inherited(),
        work_dir: work_dir.into(),
        home: config.home.clone().into(),
    })
}
