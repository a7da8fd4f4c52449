//! Runners: their identity, their health, and which of them gets the next sandbox.
//!
//! Readiness is computed when it is asked for, from the time since the last healthcheck; no sweep is needed for it. [`Runners::changed`] wakes whoever
//! waits for a runner to become ready, and [`watch`] tells when one was lost. Between two healthchecks a runner's figures are those it reported plus what
//! was placed there since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_proto::runner::health::{Healthcheck, RunnerMetrics};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::core::Core;
use crate::events;
use crate::score::score;
use crate::store::runners::{self as table, Runner};
use crate::store::sandboxes::Record;
use crate::store::{Result, Store};
use crate::time::{iso, now, steady, until};
use crate::token;

/// A runner that was silent for longer gets no new work.
const STALE_AFTER_MS: i64 = 60_000;
/// Scores that are no further apart than this are as good as each other.
const CLOSE: u8 = 10;
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
    /// On the steady clock.
    booted_at: i64,
    all: Mutex<HashMap<String, Runner>>,
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

/// How well a runner fits a need.
struct Fit {
    gpus: usize,
    score: u8,
    promised: f64,
}

/// What a sandbox needs of its runner.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) region: String,
    /// The only runners that will do.
    pub(crate) only: Option<Vec<String>>,
    /// Cores, memory and disk in GiB.
    pub(crate) size: [u32; 3],
    pub(crate) gpu: u32,
    /// Kinds of GPU, the best first; empty is any.
    pub(crate) gpu_types: Vec<String>,
}

impl Need {
    /// What a recorded sandbox needs.
    pub(crate) fn of(r: &Record) -> Self {
        Self {
            region: r.region.clone(),
            only: None,
            size: [r.cpu, r.memory, r.disk],
            gpu: r.gpu,
            gpu_types: r.gpu_type.iter().cloned().collect(),
        }
    }

    /// What anything in this region needs: some runner.
    pub(crate) fn any(region: &str) -> Self {
        Self { region: region.to_owned(), only: None, size: [0; 3], gpu: 0, gpu_types: Vec::new() }
    }

    /// How well the GPUs of a runner fit, more is better; `None` when they do not.
    fn fits(&self, metrics: &RunnerMetrics) -> Option<usize> {
        let has = metrics.gpu.unwrap_or(0);
        if self.gpu == 0 {
            // GPUs are kept for those who ask for them, as long as there are others.
            return Some(usize::from(has == 0));
        }
        if has < self.gpu {
            return None;
        }
        let kind = metrics.gpu_type.as_deref().unwrap_or_default();
        if self.gpu_types.is_empty() {
            return Some(1);
        }
        self.gpu_types.iter().position(|wanted| wanted == kind).map(|place| self.gpu_types.len() - place)
    }
}

impl Runners {
    /// Loads all runners.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        let mut tx = store.begin().await?;
        let all = table::all(&mut tx).await?;
        tx.commit().await?;
        let all = all.into_iter().map(|r| (r.id.clone(), r)).collect();
        Ok(Self {
            store: store.clone(),
            booted_at: steady(),
            all: Mutex::new(all),
            heard: Mutex::default(),
            changed: Notify::new(),
        })
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
        self.heard().insert(id.to_owned(), Heard { at: steady(), placed: Vec::new() });
        self.save(runner).await
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a runner was last heard of, on the steady clock. After a restart of ours, one that reported before gets time to report again.
    fn last_heard(&self, id: &str) -> i64 {
        self.heard().get(id).map_or(self.booted_at, |heard| heard.at)
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

    /// What a runner is right now.
    pub(crate) fn state(&self, runner: &Runner) -> RunnerState {
        let (Some(_), Some(health)) = (runner.last_checked, &runner.health) else {
            return RunnerState::Initializing;
        };
        let healthy = health.service_health.iter().all(|service| service.healthy);
        let recent = steady() - self.last_heard(&runner.id) <= STALE_AFTER_MS;
        if healthy && recent { RunnerState::Ready } else { RunnerState::Unresponsive }
    }

    /// Why a runner's sandboxes cannot be reached, if they cannot.
    pub(crate) fn lost(&self, id: &str) -> Option<String> {
        let all = self.lock();
        let Some(runner) = all.get(id) else { return Some("its runner does not exist any more".to_owned()) };
        if self.state(runner) != RunnerState::Unresponsive {
            return None;
        }
        let name = &runner.name;
        let health = runner.health.as_ref();
        let ill = health.and_then(|h| h.service_health.iter().find(|service| !service.healthy));
        let since = runner.last_checked.map(iso).unwrap_or_default();
        Some(match ill {
            Some(service) if steady() - self.last_heard(id) <= STALE_AFTER_MS => {
                format!("its runner {name} is not well: {} does not work", service.service_name)
            }
            _ => format!("its runner {name} has not been heard of since {since}"),
        })
    }

    /// The runner for a new sandbox, which counts as placed there: of those whose score is close to the best one, that which has promised least.
    ///
    /// The score alone would fill one runner after the other, because by the contract's formula a runner is the better the more of it is promised.
    pub(crate) fn choose(&self, need: &Need) -> Option<Runner> {
        let all = self.lock();
        let fit = |r: &Runner| {
            let usable = r.region == need.region && !r.unschedulable && !r.draining;
            let allowed = need.only.as_ref().is_none_or(|only| only.contains(&r.id));
            if !usable || !allowed || self.state(r) != RunnerState::Ready {
                return None;
            }
            let metrics = r.health.as_ref().and_then(|h| h.metrics.clone()).unwrap_or_default();
            Some(Fit {
                gpus: need.fits(&metrics)?,
                score: score(&metrics),
                promised: self.promised(&r.id, &metrics),
            })
        };
        let fits: Vec<(Fit, &Runner)> = all.values().filter_map(|r| Some((fit(r)?, r))).collect();
        let gpus = fits.iter().map(|(fit, _)| fit.gpus).max()?;
        let best = fits.iter().filter(|(fit, _)| fit.gpus == gpus).map(|(fit, _)| fit.score).max()?;
        let close =
            fits.iter().filter(|(fit, _)| fit.gpus == gpus && fit.score.saturating_add(CLOSE) >= best);
        let (_, chosen) = close.min_by(|(a, x), (b, y)| {
            a.promised.total_cmp(&b.promised).then(b.score.cmp(&a.score)).then(x.id.cmp(&y.id))
        })?;
        if let Some(heard) = self.heard().get_mut(&chosen.id) {
            heard.placed.push(need.size);
        }
        Some((*chosen).clone())
    }

    /// The larger of the shares of cores and memory that are promised: as reported, and what was placed since. A sandbox counts a little by itself.
    fn promised(&self, id: &str, metrics: &RunnerMetrics) -> f64 {
        let heard = self.heard();
        let placed = heard.get(id).map_or(&[][..], |heard| &heard.placed);
        let sum = |at: usize| placed.iter().map(|size| f64::from(size[at])).sum::<f64>();
        let share = |promised: f64, whole: f64| if whole > 0.0 { promised / whole } else { 0.0 };
        let cpu = share(metrics.current_allocated_cpu + sum(0), metrics.cpu);
        let memory = share(metrics.current_allocated_memory_gib + sum(1), metrics.memory_gib);
        #[expect(clippy::cast_precision_loss, reason = "counts of sandboxes are far below 2^52")]
        let sandboxes = (metrics.current_started_sandboxes as f64) + placed.len() as f64;
        cpu.max(memory) + sandboxes / 1000.0
    }

    /// Whether any runner of the region has such GPUs, ready or not.
    pub(crate) fn has_gpu(&self, need: &Need) -> bool {
        let metrics = |r: &Runner| r.health.as_ref().and_then(|h| h.metrics.clone()).unwrap_or_default();
        self.lock().values().any(|r| r.region == need.region && need.fits(&metrics(r)).is_some())
    }

    /// [`Runners::choose`], waiting for as long as it takes.
    pub(crate) async fn wait_for(&self, need: &Need) -> Runner {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no change is missed.
            changed.as_mut().enable();
            if let Some(runner) = self.choose(need) {
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
            if runner.is_some_and(|r| self.heard().contains_key(&r.id)) {
                return;
            }
            changed.await;
        }
    }

    /// [`Runners::choose`], waiting up to [`ADMISSION_WAIT`] for a runner.
    pub(crate) async fn admit(&self, need: &Need) -> Option<Runner> {
        tokio::time::timeout(ADMISSION_WAIT, self.wait_for(need)).await.ok()
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

/// Tells when a runner was lost or came back, until the control plane stops.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut known: HashMap<String, RunnerState> = HashMap::new();
    loop {
        let mut changed = std::pin::pin!(core.runners.changed.notified());
        changed.as_mut().enable();
        let mut next = None;
        for runner in core.runners.list() {
            let state = core.runners.state(&runner);
            if state == RunnerState::Ready {
                let silent = core.runners.last_heard(&runner.id) + STALE_AFTER_MS + 1;
                next = Some(next.map_or(silent, |next: i64| next.min(silent)));
            }
            let before = known.insert(runner.id.clone(), state);
            if before.is_none_or(|before| before == state) {
                continue;
            }
            let (old, new) = (before.map_or("", RunnerState::as_str), state.as_str());
            let holds = |r: &Arc<Record>| r.runner_id.as_deref() == Some(&runner.id);
            let sandboxes = core.directory.scan(|r, _| holds(r).then_some(())).len();
            tracing::warn!(runner = runner.name, old, new, sandboxes, "a runner's state changed");
            core.events.emit("runner.state.updated", || {
                events::changed("runner", core.runners.dto(&runner, false), "State", old, new)
            });
        }
        let silence = async {
            match next {
                Some(at) => tokio::time::sleep(until(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = silence => {}
            () = core.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(metrics: RunnerMetrics) -> Healthcheck {
        Healthcheck {
            app_version: "1".to_owned(),
            domain: None,
            api_url: None,
            proxy_url: None,
            ssh_port: None,
            service_health: Vec::new(),
            metrics: Some(metrics),
        }
    }

    async fn runners(names: &[&str]) -> (tempfile::TempDir, Runners) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).await.unwrap();
        let runners = Runners::load(&store).await.unwrap();
        for name in names {
            let runner = runners.register(name, "us", Vec::new(), name).await.unwrap();
            let metrics =
                RunnerMetrics { cpu: 8.0, memory_gib: 16.0, disk_gib: 100.0, ..RunnerMetrics::default() };
            let health = report(metrics);
            runners.healthcheck(&runner.id, health).await.unwrap();
        }
        (dir, runners)
    }

    #[tokio::test]
    async fn creates_between_two_healthchecks_are_spread() {
        let (_dir, runners) = runners(&["a", "b", "c"]).await;
        let need = Need { size: [1, 1, 3], ..Need::any("us") };
        let mut counts: HashMap<String, usize> = HashMap::new();
        for _ in 0..30 {
            *counts.entry(runners.choose(&need).unwrap().name).or_default() += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|n| (8..=12).contains(n)), "{counts:?}");
    }

    #[tokio::test]
    async fn a_drained_runner_gets_nothing_new() {
        let (_dir, runners) = runners(&["a", "b"]).await;
        let a = runners.authenticate("a").unwrap();
        runners.change(&a, |r| r.draining = true).await.unwrap();
        for _ in 0..10 {
            assert_eq!(runners.choose(&Need::any("us")).unwrap().name, "b");
        }
        assert!(runners.choose(&Need::any("mars")).is_none());
    }

    #[tokio::test]
    async fn gpus_go_to_those_who_ask() {
        let (_dir, runners) = runners(&["plain"]).await;
        let with = runners.register("with", "us", Vec::new(), "with").await.unwrap();
        let metrics = RunnerMetrics {
            cpu: 64.0,
            memory_gib: 512.0,
            disk_gib: 1000.0,
            gpu: Some(2),
            gpu_type: Some("H100".to_owned()),
            ..RunnerMetrics::default()
        };
        let health = report(metrics);
        runners.healthcheck(&with.id, health).await.unwrap();
        let gpu = |n, kinds: &[&str]| Need {
            gpu: n,
            gpu_types: kinds.iter().map(|k| (*k).to_owned()).collect(),
            ..Need::any("us")
        };
        assert_eq!(runners.choose(&Need::any("us")).unwrap().name, "plain");
        assert_eq!(runners.choose(&gpu(1, &["H200", "H100"])).unwrap().name, "with");
        assert!(runners.choose(&gpu(1, &["H200"])).is_none() && runners.choose(&gpu(4, &[])).is_none());
    }
}
