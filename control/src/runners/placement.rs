//! Which runner gets the next sandbox.

use std::time::Duration;

use pinfold_proto::runner::health::RunnerMetrics;

use super::{RunnerState, Runners};
use crate::score::score;
use crate::store::runners::Runner;
use crate::store::sandboxes::Record;

/// Scores that are no further apart than this are as good as each other.
const CLOSE: u8 = 10;
/// How long a create waits for some runner to be ready.
pub(crate) const ADMISSION_WAIT: Duration = Duration::from_secs(15);

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
    /// The runner for a new sandbox, which counts as placed there: of those whose score is close to the best one, that which has promised least.
    ///
    /// The score alone would fill one runner after the other, because by the contract's formula a runner is the better the more of it is promised.
    pub(crate) fn choose(&self, need: &Need) -> Option<Runner> {
        let all = self.all.lock();
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
        self.all.lock().values().any(|r| r.region == need.region && need.fits(&metrics(r)).is_some())
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

    /// [`Runners::choose`], waiting up to [`ADMISSION_WAIT`] for a runner.
    pub(crate) async fn admit(&self, need: &Need) -> Option<Runner> {
        tokio::time::timeout(ADMISSION_WAIT, self.wait_for(need)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pinfold_proto::runner::health::Healthcheck;

    use super::*;
    use crate::store::Store;

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
        let runners = Runners::load(&store, Duration::from_secs(60)).await.unwrap();
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
