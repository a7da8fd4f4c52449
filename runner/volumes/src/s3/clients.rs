//! The processes that serve mounts, and their ends: a mount is dead from the moment its client is.
//!
//! A client is found by its arguments, which name the mount point, so that one of an earlier run is watched like our own. One task a volume waits for its pidfd.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Watches the client that serves `path`, unless that is done already; `anew` if it is another client now. Its end from here on is told.
    pub(super) async fn watch(&self, volume: &VolumeId, path: &Path, anew: bool) {
        if self.lock().contains_key(volume) && !anew {
            return;
        }
        let owned = path.to_owned();
        let found = tokio::task::spawn_blocking(move || serving(&owned)).await.unwrap_or_default();
        let clients: Vec<_> = found.into_iter().filter_map(|client| register(client).ok()).collect();
        // Without one that could be found, the mount itself is looked at now and then.
        if clients.is_empty() {
            return;
        }
        let ended = Arc::clone(&self.ended);
        let task = tokio::spawn(async move {
            let _ = select_all(clients.iter().map(|client| Box::pin(client.readable()))).await;
            ended.notify_one();
        });
        if let Some(earlier) = self.lock().insert(volume.clone(), task) {
            earlier.abort();
        }
    }

    /// Those that are watched now.
    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, JoinHandle<()>>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, task| !task.is_finished());
        watched
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
        let (path, clients) = (format!("/nowhere/{}", std::process::id()), Clients::default());
        let volume: VolumeId = "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70".parse().unwrap();
        clients.watch(&volume, Path::new(&path), false).await;
        assert!(clients.lock().is_empty(), "nobody serves it");
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "read -r line", "client", &path]).stdin(std::process::Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        assert!(serving(Path::new("/nowhere")).is_empty(), "a part of the path is another");
        for _ in 0..2 {
            clients.watch(&volume, Path::new(&path), false).await;
            assert_eq!(clients.lock().len(), 1);
        }
        process.kill().await.unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(30), clients.ended());
        told.await.expect("its end is told");
    }
}
