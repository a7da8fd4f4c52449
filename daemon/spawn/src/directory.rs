//! Whether a directory answers, before a process starts there.
//!
//! A child changes its directory before it becomes the program, and whoever starts it waits for that, holding the gate of the reaper: on a file system that
//! hangs (FUSE without its server, NFS without its host) both would wait for ever, and with them all who start or signal something. So somebody who may
//! hang looks first. Who hangs costs a thread until the file system answers or is gone; there are only so many, and none twice for one path.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::SpawnError;

/// How long a directory may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who may look at a time. The runtime has some hundreds of threads that may block, for everything.
const LOOKERS: usize = 64;

/// The looks that are under way.
#[derive(Debug)]
pub(crate) struct Directories {
    lookers: Arc<Semaphore>,
    /// Paths that did not answer in time, and whether they have since.
    hanging: Mutex<HashMap<PathBuf, Arc<AtomicBool>>>,
}

impl Directories {
    pub(crate) fn new() -> Self {
        Self { lookers: Arc::new(Semaphore::new(LOOKERS)), hanging: Mutex::default() }
    }

    /// Waits until `directory` has answered, whatever it said: that it is missing is told by who starts something there.
    pub(crate) async fn look(&self, directory: &Path) -> Result<(), SpawnError> {
        let hangs = || SpawnError::Hangs { directory: directory.display().to_string(), waited: PATIENCE };
        if self.is_known_to_hang(directory) {
            return Err(hangs());
        }
        let answered = Arc::new(AtomicBool::new(false));
        let mut begun = false;
        let looking = async {
            let looker = Arc::clone(&self.lookers).acquire_owned().await;
            let (path, answered) = (directory.to_owned(), Arc::clone(&answered));
            begun = true;
            let look = move || {
                // What `chdir` asks: the attributes may be cached, the right to go there need not be.
                let _ = std::fs::metadata(&path);
                let _ = access(&path, AccessFlags::X_OK);
                answered.store(true, Ordering::Release);
                drop(looker);
            };
            let _ = tokio::task::spawn_blocking(look).await;
        };
        if timeout(PATIENCE, looking).await.is_ok() {
            return Ok(());
        }
        if begun {
            self.hanging
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(directory.to_owned(), answered);
        }
        Err(hangs())
    }

    fn is_known_to_hang(&self, directory: &Path) -> bool {
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        hanging.retain(|_, answered| !answered.load(Ordering::Acquire));
        hanging.contains_key(directory)
    }
}
