//! The sandbox as the daemon finds it at its start: directories, environment, process core.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};
use pinfold_spawn::{Environment, Sandbox, SpawnError, Spawner};

use crate::config::{Config, PRIVATE};

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `$HOME/.daytona` is missing and cannot be made. A home that cannot be written is no reason: session logs are then kept in memory.
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
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
            ) =>
        {
            tracing::warn!(?path, %error, "the home directory cannot be written; session logs are kept in memory");
        }
        Err(source) => return Err(StartError::ConfigDir { path, source }),
    }
    if config.home_as_work_dir
        && let Err(error) = std::env::set_current_dir(&config.home)
    {
        tracing::warn!(home = ?config.home, %error, "could not change to the home directory");
    }
    let work_dir = std::env::current_dir().map_err(StartError::WorkDir)?;
    let sandbox = Sandbox {
        spawner: Spawner::start()?,
        environment: Environment::inherited(PRIVATE),
        work_dir: work_dir.into(),
        home: config.home.clone().into(),
    };
    say_what_lacks(&sandbox);
    Ok(sandbox)
}

/// A daemon runs in any image; what it cannot do in this one is in its log before anybody asks.
fn say_what_lacks(sandbox: &Sandbox) {
    let (shell, path) = (sandbox.shell(), sandbox.environment.get("PATH").unwrap_or_default());
    // A name without a slash is looked for in `PATH`, or in the kernel's stead of one.
    let path = if path.is_empty() { "/bin:/usr/bin".to_owned() } else { path };
    if !std::env::split_paths(&path).any(|directory| directory.join(&shell).exists()) {
        tracing::warn!(?shell, "this image has no shell: commands, sessions and terminals will not start");
    }
    let temporary = std::env::temp_dir();
    if access(&temporary, AccessFlags::W_OK).is_err() {
        tracing::warn!(
            ?temporary,
            "the temporary directory cannot be written; long output is kept in memory"
        );
    }
}
