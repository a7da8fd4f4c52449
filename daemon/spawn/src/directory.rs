//! Whether a directory answers, before a process starts there.
//!
//! A child changes its directory before it becomes the program, and whoever starts it waits for that, holding the gate of the reaper: on a file system that
//! hangs (FUSE without its server, NFS without its host) both would wait for ever, and with them all who start or signal something. So somebody who may
//! hang looks first. Who hangs costs a thread until the file system answers or is gone; there are only so many, and none twice for one path. Where nothing
//! is mounted that may hang, nobody looks: a thread that is woken for each command would stay with them.

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
        let mounts = std::fs::read_to_string("/proc/self/mounts");
        if mounts.is_ok_and(|mounts| !may_hang(&mounts)) { Ok(()) } else { self.ask(directory).await }
    }

    async fn ask(&self, directory: &Path) -> Result<(), SpawnError> {
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

/// Whether anything is mounted that somebody else has to answer for. Any of it may be what a path leads to, by links.
fn may_hang(mounts: &str) -> bool {
    mounts.lines().filter_map(|line| line.split(' ').nth(2)).any(|kind| {
        let (family, _) = kind.split_once('.').unwrap_or((kind, ""));
        matches!(
            family,
            "fuse"
                | "fuseblk"
                | "nfs"
                | "nfs4"
                | "9p"
                | "cifs"
                | "smb3"
                | "ceph"
                | "lustre"
                | "virtiofs"
                | "afs"
                | "autofs"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_answered_for_elsewhere_may_hang() {
        let own = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\nfuse /not\\040fuse tmpfs rw 0 0\n";
        assert!(!may_hang(own));
        for kind in ["fuse", "fuse.sshfs", "fuse.mountpoint-s3", "nfs4", "9p"] {
            assert!(may_hang(&format!("{own}x /volume {kind} rw,user_id=0 0 0\n")), "{kind}");
        }
        assert!(!may_hang(&format!("{own}fusectl /sys/fs/fuse/connections fusectl rw 0 0\n")));
    }
}
