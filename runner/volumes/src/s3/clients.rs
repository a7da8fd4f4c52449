//! The processes that serve mounts, and their ends: a mount is dead from the moment its client is.
//!
//! A client is found by its arguments, which name the mount point, so that one of an earlier run is watched like our own. One task a volume waits for its pidfd.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::select_all;
use pinfold_proto::id::VolumeId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Clients that are watched.
#[derive(Debug, Default)]
pub(super) struct Clients {
    ended: Arc<Notify>,
    watched: Mutex<HashMap<VolumeId, JoinHandle<()>>>,
}

impl Clients {
    /// Watches the client that serves `path`, unless that is done already; `anew` if it is another client now.
    pub(super) fn watch(&self, volume: &VolumeId, path: &Path, anew: bool) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, task| !task.is_finished());
        if watched.contains_key(volume) && !anew {
            return;
        }
        let (path, ended) = (path.to_owned(), Arc::clone(&self.ended));
        let task = tokio::spawn(async move {
            // Without one that could be found, the mount itself is looked at now and then.
            if end_of(path).await {
                ended.notify_one();
            }
        });
        if let Some(earlier) = watched.insert(volume.clone(), task) {
            earlier.abort();
        }
    }

    /// Waits until one has ended.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let watched = self.watched.get_mut().unwrap_or_else(PoisonError::into_inner);
        watched.values().for_each(JoinHandle::abort);
    }
}

/// Waits for the end of a client of `path`; false if there is none.
async fn end_of(path: PathBuf) -> bool {
    let found = tokio::task::spawn_blocking(move || serving(&path)).await.unwrap_or_default();
    let registered: Vec<_> = found.into_iter().filter_map(|client| register(client).ok()).collect();
    if registered.is_empty() {
        return false;
    }
    select_all(registered.iter().map(|client| Box::pin(client.readable()))).await.0.is_ok()
}

/// The processes of our own PID namespace, so of no container, that have `path` as an argument.
fn serving(path: &Path) -> Vec<OwnedFd> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/pid")).ok();
    let ours = namespace("self");
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let found = processes.flatten().filter_map(|entry| {
        let process = entry.file_name().into_string().ok()?;
        let pid = Pid::from_raw(process.parse().ok()?)?;
        // Opened first: what is read afterwards is of this process, or of none.
        let client = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let arguments = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
        let mut arguments = arguments.split(|byte| *byte == 0);
        let named = arguments.any(|argument| argument == path.as_os_str().as_encoded_bytes());
        (named && namespace(&process) == ours).then_some(client)
    });
    found.collect()
}

#[allow(unsafe_code)]
fn register(client: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open description for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(client, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_client_is_told() {
        let path = PathBuf::from(format!("/nowhere/{}", std::process::id()));
        assert!(!end_of(path.clone()).await, "nobody serves it");
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "read -r line", "client"]).arg(&path).stdin(std::process::Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let mut found = serving(&path);
        assert_eq!(found.len(), 1);
        assert!(serving(Path::new("/nowhere")).is_empty(), "a part of the path is another");
        let client = register(found.remove(0)).unwrap();
        process.kill().await.unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(30), client.readable());
        assert!(told.await.expect("its end is told").is_ok());
    }
}
