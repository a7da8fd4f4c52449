//! Runners: their identity, their health, and which of them gets the next sandbox.
//!
//! Readiness is computed when it is asked for, from the time since the last healthcheck; no sweep is needed for it. [`Runners::changed`] wakes whoever
//! waits for a runner to become ready, and [`watch()`] tells when one was lost. Between two healthchecks a runner's figures are those it reported plus what
//! was placed there since.

mod placement;
mod watch;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_proto::runner::health::Healthcheck;
pub(crate) use placement::Need;
use serde_json::{Value, json};
use tokio::sync::Notify;
pub(crate) use watch::watch;

use crate::score::score;
use crate::store::mirror::Mirror;
use crate::store::runners::Runner;
use crate::store::{Result, Store};
use crate::time::{iso, now, steady};
use crate::token;

/// What a runner is to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunnerState {
    Initializing,
    Ready,
    Unresponsive,
}

impl RunnerState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Unresponsive => "unresponsive",
        }
    }
}

/// All runners.
#[derive(Debug)]
pub(crate) struct Runners {
    /// A runner that was silent for longer, in milliseconds, gets no new work.
    silence: i64,
    /// On the steady clock.
    booted_at: i64,
    all: Mirror<Runner>,
    heard: Mutex<HashMap<String, Heard>>,
    changed: Notify,
}

/// What happened since a runner's last healthcheck.
#[derive(Debug)]
struct Heard {
    /// When that was, on the steady clock.
    at: i64,
    /// Cores, memory and disk in GiB that were placed there since, one member a sandbox.
    placed: Vec<[u32; 3]>,
}

impl Runners {
    /// Loads all runners.
    pub(crate) async fn load(store: &Store, silence: Duration) -> Result<Self> {
        Ok(Self {
            silence: i64::try_from(silence.as_millis()).unwrap_or(i64::MAX / 2),
            booted_at: steady(),
            all: Mirror::load(store).await?,
            heard: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Registers a runner, or gives the one of this name the token.
    pub(crate) async fn register(
        &self,
        name: &str,
        region: &str,
        tags: Vec<String>,
        token: &str,
    ) -> Result<Runner> {
        let at = now();
        let known = self.all.lock().values().find(|r| r.name == name).map(|r| r.id.clone());
        if let Some(id) = known {
            let take = |r: &mut Runner| {
                r.token = token.to_owned();
                r.token_hash = token::hash(token);
            };
            if let Some(runner) = self.change(&id, take).await? {
                return Ok(runner);
            }
        }
        let runner = Runner {
            id: uuid::Uuid::new_v4().to_string(),
            name: name.to_owned(),
            region: region.to_owned(),
            token: token.to_owned(),
            token_hash: token::hash(token),
            tags,
            unschedulable: false,
            draining: false,
            health: None,
            last_checked: None,
            created_at: at,
            updated_at: at,
        };
        self.all.insert(runner.clone()).await?;
        self.changed.notify_waiters();
        Ok(runner)
    }

    /// The runner with this id.
    pub(crate) fn get(&self, id: &str) -> Option<Runner> {
        self.all.get(id)
    }

    /// The runner with this token.
    pub(crate) fn authenticate(&self, token: &str) -> Option<String> {
        let hash = token::hash(token);
        self.all.lock().values().find(|r| r.token_hash == hash).map(|r| r.id.clone())
    }

    /// All runners, oldest first.
    pub(crate) fn list(&self) -> Vec<Runner> {
        self.all.list()
    }

    /// Takes a healthcheck in.
    pub(crate) async fn healthcheck(&self, id: &str, mut health: Healthcheck) -> Result<()> {
        if self.get(id).is_none() {
            return Ok(());
        }
        self.heard().insert(id.to_owned(), Heard { at: steady(), placed: Vec::new() });
        let take = |runner: &mut Runner| {
            if let Some(previous) = runner.health.take() {
                let kept =
                    |new: Option<String>, old: Option<String>| new.filter(|text| !text.is_empty()).or(old);
                health.domain = kept(health.domain, previous.domain);
                health.api_url = kept(health.api_url, previous.api_url);
                health.proxy_url = kept(health.proxy_url, previous.proxy_url);
                health.metrics = health.metrics.or(previous.metrics);
            }
            runner.health = Some(health);
            runner.last_checked = Some(now());
        };
        self.change(id, take).await.map(drop)
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a runner was last heard of, on the steady clock. After a restart of ours, one that reported before gets time to report again.
    fn last_heard(&self, id: &str) -> i64 {
        self.heard().get(id).map_or(self.booted_at, |heard| heard.at)
    }

    /// When a runner counts as lost unless it is heard of before, on the steady clock.
    fn lost_at(&self, id: &str) -> i64 {
        self.last_heard(id) + self.silence + 1
    }

    /// Changes a runner, and returns it; none if it has been removed.
    pub(crate) async fn change(&self, id: &str, change: impl FnOnce(&mut Runner)) -> Result<Option<Runner>> {
        let changed = self.all.change(id, |runner| {
            change(runner);
            runner.updated_at = now();
        });
        let changed = changed.await?;
        self.changed.notify_waiters();
        Ok(changed)
    }

    /// Forgets a runner.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        self.all.remove(id).await
    }

    /// What a runner is right now.
    pub(crate) fn state(&self, runner: &Runner) -> RunnerState {
        let (Some(_), Some(health)) = (runner.last_checked, &runner.health) else {
            return RunnerState::Initializing;
        };
        let healthy = health.service_health.iter().all(|service| service.healthy);
        let recent = steady() - self.last_heard(&runner.id) <= self.silence;
        if healthy && recent { RunnerState::Ready } else { RunnerState::Unresponsive }
    }

    /// Why a runner's sandboxes cannot be reached, if they cannot.
    pub(crate) fn lost(&self, id: &str) -> Option<String> {
        let all = self.all.lock();
        let Some(runner) = all.get(id) else { return Some("its runner does not exist any more".to_owned()) };
        if self.state(runner) != RunnerState::Unresponsive {
            return None;
        }
        let name = &runner.name;
        let health = runner.health.as_ref();
        let ill = health.and_then(|h| h.service_health.iter().find(|service| !service.healthy));
        let since = runner.last_checked.map(iso).unwrap_or_default();
        Some(match ill {
            Some(service) if steady() - self.last_heard(id) <= self.silence => {
                format!("its runner {name} is not well: {} does not work", service.service_name)
            }
            _ => format!("its runner {name} has not been heard of since {since}"),
        })
    }

    /// Waits until the runner with this token has reported since we started.
    pub(crate) async fn reported(&self, token: &str) {
        self.until(|| self.authenticate(token).is_some_and(|id| self.heard().contains_key(&id))).await;
    }

    /// Waits until a runner has reported since we started, and is well.
    pub(crate) async fn ready(&self, id: &str) {
        self.until(|| self.heard().contains_key(id) && self.lost(id).is_none()).await;
    }

    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no change is missed.
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }

    /// A runner as the API shows it; `full` adds the token.
    pub(crate) fn dto(&self, runner: &Runner, full: bool) -> Value {
        let health = runner.health.as_ref();
        let metrics = health.and_then(|h| h.metrics.clone()).unwrap_or_default();
        let mut dto = json!({
            "id": runner.id, "name": runner.name, "region": runner.region, "tags": runner.tags,
            "domain": health.and_then(|h| h.domain.clone()), "apiUrl": health.and_then(|h| h.api_url.clone()),
            "proxyUrl": health.and_then(|h| h.proxy_url.clone()),
            "cpu": metrics.cpu, "memory": metrics.memory_gib, "disk": metrics.disk_gib,
            "gpu": metrics.gpu, "gpuType": metrics.gpu_type,
            "sandboxClass": "container", "runnerClass": "container", "class": "container",
            "currentCpuUsagePercentage": metrics.current_cpu_usage_percentage,
            "currentMemoryUsagePercentage": metrics.current_memory_usage_percentage,
            "currentDiskUsagePercentage": metrics.current_disk_usage_percentage,
            "currentAllocatedCpu": metrics.current_allocated_cpu,
            "currentAllocatedMemoryGiB": metrics.current_allocated_memory_gib,
            "currentAllocatedDiskGiB": metrics.current_allocated_disk_gib,
            "currentSnapshotCount": metrics.current_snapshot_count,
            "currentStartedSandboxes": metrics.current_started_sandboxes,
            "availabilityScore": health.and_then(|h| h.metrics.as_ref()).map_or(0, score),
            "state": self.state(runner).as_str(), "unschedulable": runner.unschedulable, "draining": runner.draining,
            "createdAt": iso(runner.created_at), "updatedAt": iso(runner.updated_at),
            "version": "2", "apiVersion": "2", "appVersion": health.map(|h| h.app_version.clone()),
            "serviceHealth": health.map(|h| h.service_health.clone()).unwrap_or_default(),
        });
        if let (Value::Object(members), Some(at)) = (&mut dto, runner.last_checked) {
            members.insert("lastChecked".to_owned(), iso(at).into());
        }
        if let (Value::Object(members), true) = (&mut dto, full) {
            members.insert("apiKey".to_owned(), runner.token.clone().into());
            members.insert("regionType".to_owned(), "shared".into());
        }
        dto
    }
}
