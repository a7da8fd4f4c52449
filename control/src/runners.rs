//! Runners: their identity, their health, and which of them gets the next sandbox.
//!
//! Readiness is computed when it is asked for, from the time of the last healthcheck; no sweep is needed for it. [`Runners::changed`] wakes whoever
//! waits for a runner to become ready.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_proto::runner::health::Healthcheck;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::score::score;
use crate::store::runners::{self as table, Runner};
use crate::store::{Result, Store};
use crate::time::{iso, now};
use crate::token;

/// A runner that was silent for longer gets no new work.
const STALE_AFTER_MS: i64 = 60_000;
/// How long a create waits for some runner to be ready.
pub(crate) const ADMISSION_WAIT: Duration = Duration::from_secs(15);

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
    store: Store,
    booted_at: i64,
    all: Mutex<HashMap<String, Runner>>,
    changed: Notify,
}

impl Runners {
    /// Loads all runners.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        let mut tx = store.begin().await?;
        let all = table::all(&mut tx).await?;
        tx.commit().await?;
        let all = all.into_iter().map(|r| (r.id.clone(), r)).collect();
        Ok(Self { store: store.clone(), booted_at: now(), all: Mutex::new(all), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Runner>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save(&self, runner: Runner) -> Result<()> {
        let mut tx = self.store.begin().await?;
        table::put(&mut tx, &runner).await?;
        tx.commit().await?;
        self.lock().insert(runner.id.clone(), runner);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Registers a runner, or gives the one of this name the token.
    pub(crate) async fn register(
        &self,
        name: &str,
        region: &str,
        tags: Vec<String>,
        token: &str,
    ) -> Result<Runner> {
        let known = self.lock().values().find(|r| r.name == name).cloned();
        let at = now();
        let runner = match known {
            Some(known) => {
                Runner { token: token.to_owned(), token_hash: token::hash(token), updated_at: at, ..known }
            }
            None => Runner {
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
            },
        };
        self.save(runner.clone()).await?;
        Ok(runner)
    }

    /// The runner with this id.
    pub(crate) fn get(&self, id: &str) -> Option<Runner> {
        self.lock().get(id).cloned()
    }

    /// The runner with this token.
    pub(crate) fn authenticate(&self, token: &str) -> Option<String> {
        let hash = token::hash(token);
        self.lock().values().find(|r| r.token_hash == hash).map(|r| r.id.clone())
    }

    /// All runners, oldest first.
    pub(crate) fn list(&self) -> Vec<Runner> {
        let mut all: Vec<Runner> = self.lock().values().cloned().collect();
        all.sort_by_key(|r| r.created_at);
        all
    }

    /// Takes a healthcheck in.
    pub(crate) async fn healthcheck(&self, id: &str, mut health: Healthcheck) -> Result<()> {
        let Some(mut runner) = self.get(id) else { return Ok(()) };
        if let Some(previous) = runner.health.take() {
            let kept = |new: Option<String>, old: Option<String>| new.filter(|text| !text.is_empty()).or(old);
            health.domain = kept(health.domain, previous.domain);
            health.api_url = kept(health.api_url, previous.api_url);
            health.proxy_url = kept(health.proxy_url, previous.proxy_url);
            health.metrics = health.metrics.or(previous.metrics);
        }
        runner.health = Some(health);
        runner.last_checked = Some(now());
        runner.updated_at = now();
        self.save(runner).await
    }

    /// Changes flags of a runner.
    pub(crate) async fn change(&self, id: &str, change: impl FnOnce(&mut Runner)) -> Result<Option<Runner>> {
        let Some(mut runner) = self.get(id) else { return Ok(None) };
        change(&mut runner);
        runner.updated_at = now();
        self.save(runner.clone()).await?;
        Ok(Some(runner))
    }

    /// Forgets a runner.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        table::delete(&mut tx, id).await?;
        tx.commit().await?;
        self.lock().remove(id);
        Ok(())
    }

    /// What a runner is right now. After a restart of ours, a runner that reported before gets time to report again.
    pub(crate) fn state(&self, runner: &Runner) -> RunnerState {
        let (Some(checked), Some(health)) = (runner.last_checked, &runner.health) else {
            return RunnerState::Initializing;
        };
        let healthy = health.service_health.iter().all(|service| service.healthy);
        let recent = now() - checked.max(self.booted_at) <= STALE_AFTER_MS;
        if healthy && recent { RunnerState::Ready } else { RunnerState::Unresponsive }
    }

    /// The best runner for a new sandbox. `only` restricts the choice to the runners that have a local image.
    pub(crate) fn choose(&self, region: &str, only: Option<&[String]>) -> Option<Runner> {
        let all = self.lock();
        let candidates = all.values().filter(|r| r.region == region && !r.unschedulable && !r.draining);
        let candidates = candidates.filter(|r| only.is_none_or(|only| only.contains(&r.id)));
        let ready = candidates.filter(|r| self.state(r) == RunnerState::Ready);
        ready
            .max_by_key(|r| (r.health.as_ref().and_then(|h| h.metrics.as_ref()).map_or(0, score), &r.id))
            .cloned()
    }

    /// [`Runners::choose`], waiting for as long as it takes.
    pub(crate) async fn wait_for(&self, region: &str, only: Option<&[String]>) -> Runner {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no change is missed.
            changed.as_mut().enable();
            if let Some(runner) = self.choose(region, only) {
                return runner;
            }
            changed.await;
        }
    }

    /// Waits until the runner with this token has reported since we started.
    pub(crate) async fn reported(&self, token: &str) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no change is missed.
            changed.as_mut().enable();
            let runner = self.authenticate(token).and_then(|id| self.get(&id));
            if runner.and_then(|r| r.last_checked).is_some_and(|checked| checked >= self.booted_at) {
                return;
            }
            changed.await;
        }
    }

    /// [`Runners::choose`], waiting up to [`ADMISSION_WAIT`] for a runner.
    pub(crate) async fn admit(&self, region: &str, only: Option<&[String]>) -> Option<Runner> {
        tokio::time::timeout(ADMISSION_WAIT, self.wait_for(region, only)).await.ok()
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
