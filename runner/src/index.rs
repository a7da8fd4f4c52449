//! The in-memory index of this node's sandboxes: requests read it instead of inspecting containers.
//!
//! Writers are the sandboxes' own operations, the engine's events and the slow full sync ([`crate::sync`]). While an operation of ours runs
//! for a sandbox (`busy`), events about it are hints only: the operation knows more and has the last word.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{PoisonError, RwLock};

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::SandboxId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A sandbox's state on the wire (runner contract 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the contract's own words")]
pub enum SandboxState {
    Creating,
    Restoring,
    Destroyed,
    Destroying,
    Started,
    Stopped,
    Starting,
    Stopping,
    Resizing,
    Error,
    Unknown,
    PullingSnapshot,
}

impl SandboxState {
    /// The state's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Restoring => "restoring",
            Self::Destroyed => "destroyed",
            Self::Destroying => "destroying",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Resizing => "resizing",
            Self::Error => "error",
            Self::Unknown => "unknown",
            Self::PullingSnapshot => "pulling_snapshot",
        }
    }
}

/// How a sandbox's first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// Its status; 128 + n for signal n.
    pub code: i64,
    /// Whether memory ran out for one of its processes, the first or another.
    pub oom: bool,
    /// Its memory limit, bytes; 0 for none.
    pub memory_limit: u64,
    /// The engine's words, often empty.
    pub error: String,
}

impl Ending {
    /// An end that nobody has to worry about: success, SIGKILL, SIGTERM, or a lost status (runner contract 5.1).
    pub fn is_expected(&self) -> bool {
        !self.is_out_of_memory() && matches!(self.code, 0 | 137 | 143 | 255)
    }

    /// Whether want of memory ended it. Engines remember for a container's whole life that *some* process of it was killed for that; only SIGKILL
    /// can have been its end.
    pub fn is_out_of_memory(&self) -> bool {
        self.oom && self.code == 137
    }

    /// One sentence for users.
    pub fn reason(&self) -> String {
        let mut text = if self.is_out_of_memory() {
            let limit = match self.memory_limit {
                0 => String::new(),
                bytes => format!(", limit {:.1} GiB", crate::images::gib(bytes)),
            };
            format!("the sandbox ran out of memory and was killed (exit code {}{limit})", self.code)
        } else {
            format!("the sandbox exited unexpectedly with code {}", self.code)
        };
        if !self.error.is_empty() {
            text.push_str(": ");
            text.push_str(&self.error);
        }
        text
    }
}

/// The state that a container's own says (runner contract 5.1).
pub fn state_of(status: ContainerStatus, ending: Option<&Ending>) -> SandboxState {
    match status {
        ContainerStatus::Created => SandboxState::Creating,
        ContainerStatus::Running => SandboxState::Started,
        ContainerStatus::Paused => SandboxState::Stopped,
        ContainerStatus::Restarting => SandboxState::Starting,
        ContainerStatus::Removing => SandboxState::Destroying,
        ContainerStatus::Exited => match ending {
            Some(ending) if !ending.is_expected() => SandboxState::Error,
            _ => SandboxState::Stopped,
        },
        ContainerStatus::Dead => SandboxState::Destroyed,
        ContainerStatus::Unknown => SandboxState::Unknown,
    }
}

/// What is known of one sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// Its container.
    pub container_id: String,
    /// Where it stands.
    pub state: SandboxState,
    /// Where its container stands.
    pub status: ContainerStatus,
    /// How it ended, when it did.
    pub ending: Option<Ending>,
    /// How often an end of its container was told.
    pub ends: u64,
    /// What is wrong with it although its container runs.
    pub failure: Option<String>,
    /// How often its daemon was launched again since its start.
    pub revived: u32,
    /// Its address, while it runs.
    pub address: Option<Ipv4Addr>,
    /// The daemon's version, once it answered.
    pub daemon_version: Option<String>,
    /// Cores promised; 0 for no limit.
    pub cpu: f64,
    /// Memory promised, bytes; 0 for no limit.
    pub memory: u64,
    /// Disk promised, bytes; 0 for no limit.
    pub disk: u64,
    /// An operation of ours runs.
    pub busy: bool,
    /// We froze it for a moment: it counts as running all the same.
    pub frozen: bool,
}

impl Sandbox {
    /// Why it is in error, one sentence for users.
    pub fn trouble(&self) -> Option<String> {
        self.failure.clone().or_else(|| self.ending.as_ref().map(Ending::reason))
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            container_id: String::new(),
            state: SandboxState::Unknown,
            status: ContainerStatus::Unknown,
            ending: None,
            ends: 0,
            failure: None,
            revived: 0,
            address: None,
            daemon_version: None,
            cpu: 0.0,
            memory: 0,
            disk: 0,
            busy: false,
            frozen: false,
        }
    }
}

/// The index. Locks are held for a lookup or a change, never over an await.
#[derive(Debug)]
pub struct Index {
    map: RwLock<HashMap<SandboxId, Sandbox>>,
    version: watch::Sender<u64>,
}

impl Default for Index {
    fn default() -> Self {
        Self { map: RwLock::default(), version: watch::channel(0).0 }
    }
}

impl Index {
    /// What is known of a sandbox.
    pub fn get(&self, id: &SandboxId) -> Option<Sandbox> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Every sandbox.
    pub fn all(&self) -> Vec<(SandboxId, Sandbox)> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(id, sandbox)| (id.clone(), sandbox.clone())).collect()
    }

    /// How many sandboxes it has.
    pub(crate) fn len(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The sandbox that a container belongs to.
    pub fn by_container(&self, container_id: &str) -> Option<SandboxId> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().find(|(_, s)| s.container_id == container_id).map(|(id, _)| id.clone())
    }

    /// Changes a sandbox, making its entry if there is none.
    pub fn change(&self, id: &SandboxId, change: impl FnOnce(&mut Sandbox)) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let sandbox = map.entry(id.clone()).or_default();
        let before = sandbox.clone();
        change(sandbox);
        let changed = *sandbox != before;
        drop(map);
        if changed {
            self.bump();
        }
    }

    /// Changes a sandbox that is known.
    pub fn change_known(&self, id: &SandboxId, change: impl FnOnce(&mut Sandbox)) {
        if self.get(id).is_some() {
            self.change(id, change);
        }
    }

    /// Forgets a sandbox.
    pub fn remove(&self, id: &SandboxId) -> Option<Sandbox> {
        let removed = self.map.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if removed.is_some() {
            self.bump();
        }
        removed
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until `found` says something of the sandbox. The caller sets the deadline.
    pub async fn wait<T>(&self, id: &SandboxId, found: impl Fn(Option<&Sandbox>) -> Option<T>) -> T {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if let Some(value) = found(self.get(id).as_ref()) {
                return value;
            }
            // The sender lives as long as the index.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_the_contract() {
        let exited =
            |code, oom| state_of(ContainerStatus::Exited, Some(&Ending { code, oom, ..Ending::default() }));
        for code in [0, 137, 143, 255] {
            assert_eq!(exited(code, false), SandboxState::Stopped, "{code}");
        }
        assert_eq!(exited(1, false), SandboxState::Error);
        assert_eq!(exited(137, true), SandboxState::Error);
        assert_eq!(exited(0, true), SandboxState::Stopped, "a child ran out of memory, long ago");
        let ending = Ending { code: 137, oom: true, memory_limit: 1 << 30, ..Ending::default() };
        assert!(ending.reason().contains("out of memory") && ending.reason().contains("1.0 GiB"));
        assert_eq!(state_of(ContainerStatus::Paused, None), SandboxState::Stopped);
        assert_eq!(state_of(ContainerStatus::Dead, None), SandboxState::Destroyed);
        assert_eq!(serde_json::to_string(&SandboxState::PullingSnapshot).unwrap(), "\"pulling_snapshot\"");
    }

    #[tokio::test]
    async fn a_waiter_sees_the_change_it_waits_for() {
        let index = std::sync::Arc::new(Index::default());
        let id = SandboxId::random();
        let (waiter, watched) = (index.clone(), id.clone());
        let task = tokio::spawn(async move { waiter.wait(&watched, |s| s.and_then(|s| s.address)).await });
        index.change(&id, |s| s.state = SandboxState::Starting);
        index.change(&id, |s| s.address = Some(Ipv4Addr::LOCALHOST));
        assert_eq!(task.await.unwrap(), Ipv4Addr::LOCALHOST);
    }
}
