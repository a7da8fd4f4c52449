//! The node's health: figures sampled in the background, and a report that never waits for them.
//!
//! A figure that cannot be read is absent, with its reason in the log once; the report then carries no metrics rather than a wrong one, because
//! a control plane takes a missing figure for zero (runner contract 2.3, 17.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinfold_cgroup::{CpuSampler, Kernel, Machine, Scope};
use pinfold_engine::{ContainerStatus, EngineInfo};
use pinfold_proto::runner::health::{Healthcheck, RunnerMetrics, ServiceHealth};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::jobs::ControlPlane;
use crate::node::Node;
use crate::observe::describe;
use crate::services;

const GIB: f64 = (1_u64 << 30) as f64;
/// Shortest time between two reports, however much changes.
const SETTLE: Duration = Duration::from_secs(1);

/// Between two looks at the network rules, for what the kernel does not tell of.
const LOOK: Duration = Duration::from_secs(1);
/// After rules were put back, or could not be.
const TRUCE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Latest {
    cpu: Option<f64>,
    images: u64,
    engine: Option<String>,
    runtime: Option<String>,
    policy: Option<String>,
    complaint: Option<String>,
}

/// What is known of the node's health.
#[derive(Debug)]
pub struct Health {
    node: Arc<Node>,
    machine: Machine,
    latest: Mutex<Latest>,
}

impl Health {
    /// Nothing measured yet.
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        let runtime = lacking(&node, &node.info);
        let latest = Latest { images: node.info.images, runtime, ..Latest::default() };
        Arc::new(Self {
            node,
            machine: Machine::new(Kernel::default(), Scope::Node),
            latest: Mutex::new(latest),
        })
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples processor use and asks the engine, until `stop`.
    pub async fn sample(self: Arc<Self>, stop: CancellationToken) {
        let config = &self.node.config;
        let mut sampler = CpuSampler::new(self.machine.clone(), config.cpu_interval);
        let window = f64::from(config.cpu_window.max(1));
        let mut round = 0_u32;
        loop {
            tokio::select! {
                () = tokio::time::sleep(sampler.due()) => {}
                () = stop.cancelled() => return,
            }
            match sampler.sample() {
                Ok(Some(percent)) => {
                    let mut latest = self.latest();
                    latest.cpu = Some(weighted(latest.cpu, percent.get(), window));
                }
                Ok(None) => {}
                Err(error) => self.latest().complaint = Some(error.to_string()),
            }
            // Counting images makes the engine walk its store; once a minute is enough.
            self.ask_engine(round.is_multiple_of(12)).await;
            round = round.wrapping_add(1);
        }
    }

    async fn ask_engine(&self, ask_all: bool) {
        let engine = match self.node.engine.ping().await {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        };
        let info = if ask_all && engine.is_none() { self.node.engine.info().await.ok() } else { None };
        let mut latest = self.latest();
        latest.engine = engine;
        if let Some(info) = info {
            latest.images = info.images;
            latest.runtime = lacking(&self.node, &info);
        }
    }

    /// Whoever flushes the host's rules opens every sandbox's network: they are put back at once, until `stop`, and a failure to do so takes the node out of service.
    pub async fn keep_policy(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.node.policy.disturbed() => {}
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            let restored = self.node.policy.restore().await;
            let problem = restored.as_ref().err().map(ToString::to_string);
            let before = std::mem::replace(&mut self.latest().policy, problem.clone());
            if let Some(error) = problem.filter(|problem| before.as_ref() != Some(problem)) {
                tracing::error!(error, "the network rules are not in force");
            }
            // Two that put back what the other removes must not take the node's processors.
            if restored.unwrap_or(true) {
                tokio::time::sleep(TRUCE).await;
            }
        }
    }

    /// The figures, or why one of them is missing.
    pub fn metrics(&self) -> Result<RunnerMetrics, String> {
        let missing = |e: pinfold_cgroup::Missing| e.to_string();
        let cores = self.machine.cpu_limit().map_err(missing)?.get();
        let memory = self.machine.memory().map_err(missing)?;
        let root = self.node.info.data_root.to_string_lossy();
        let disk = self.machine.kernel().disk(&root).map_err(missing)?;
        let load = self.machine.kernel().load().map_err(missing)?;
        let percent =
            |p: Option<pinfold_cgroup::Percent>| p.map(|p| p.get()).ok_or("a total is zero".to_owned());
        let all = self.node.index.all();
        let running = || all.iter().filter(|(_, s)| s.status == ContainerStatus::Running).map(|(_, s)| s);
        let latest = self.latest();
        Ok(RunnerMetrics {
            current_cpu_load_average: load.five.get() / cores,
            current_cpu_usage_percentage: latest.cpu.unwrap_or(0.0),
            current_memory_usage_percentage: percent(memory.used_percent())?,
            current_disk_usage_percentage: percent(disk.used_percent())?,
            // The sum of nothing is -0.0, which is a negative figure to who reads the sign.
            current_allocated_cpu: running().map(|s| s.cpu).sum::<f64>() + 0.0,
            current_allocated_memory_gib: running().map(|s| s.memory as f64 / GIB).sum::<f64>() + 0.0,
            current_allocated_disk_gib: all.iter().map(|(_, s)| s.disk as f64 / GIB).sum::<f64>() + 0.0,
            current_snapshot_count: latest.images,
            current_started_sandboxes: u64::try_from(running().count()).unwrap_or(0),
            cpu: cores,
            memory_gib: memory.total as f64 / GIB,
            disk_gib: disk.total as f64 / GIB,
            gpu: u32::try_from(self.node.config.gpus.len()).ok(),
            gpu_type: self.node.config.gpus.first().cloned(),
        })
    }

    /// The figures in the Prometheus text format; those that cannot be read are left out.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut states = BTreeMap::<&str, u64>::new();
        let mut daemons = BTreeMap::<String, u64>::new();
        for (_, sandbox) in self.node.index.all() {
            *states.entry(sandbox.state.as_str()).or_default() += 1;
            if let Some(version) = sandbox.daemon_version {
                *daemons.entry(version).or_default() += 1;
            }
        }
        describe(&mut text, "pinfold_sandboxes", "gauge", "Sandboxes of this node by state.");
        for (state, count) in states {
            let _ = writeln!(text, "pinfold_sandboxes{{state=\"{state}\"}} {count}");
        }
        describe(&mut text, "pinfold_daemons", "gauge", "Running sandboxes by the version of their daemon.");
        for (version, count) in daemons {
            // A sandbox's own word, which must not become a line of ours.
            let version = version.escape_default();
            let _ = writeln!(text, "pinfold_daemons{{version=\"{version}\"}} {count}");
        }
        describe(&mut text, "pinfold_table_entries", "gauge", "Entries of this process's own tables.");
        for (table, entries) in self.node.tables() {
            let _ = writeln!(text, "pinfold_table_entries{{table=\"{table}\"}} {entries}");
        }
        let Ok(m) = self.metrics() else { return text };
        for (name, help, value) in [
            ("pinfold_node_cpus", "Cores of this node, or of the limit set on it.", m.cpu),
            ("pinfold_node_cpu_usage_percent", "Processor use.", m.current_cpu_usage_percentage),
            (
                "pinfold_node_memory_gibibytes",
                "Memory of this node, or of the limit set on it.",
                m.memory_gib,
            ),
            (
                "pinfold_node_memory_usage_percent",
                "Memory use without reclaimable cache.",
                m.current_memory_usage_percentage,
            ),
            ("pinfold_node_disk_gibibytes", "Size of the engine's filesystem.", m.disk_gib),
            (
                "pinfold_node_disk_usage_percent",
                "Use of the engine's filesystem.",
                m.current_disk_usage_percentage,
            ),
            ("pinfold_allocated_cpus", "Cores promised to running sandboxes.", m.current_allocated_cpu),
            (
                "pinfold_allocated_memory_gibibytes",
                "Memory promised to running sandboxes.",
                m.current_allocated_memory_gib,
            ),
            ("pinfold_allocated_disk_gibibytes", "Disk promised to sandboxes.", m.current_allocated_disk_gib),
        ] {
            describe(&mut text, name, "gauge", help);
            let _ = writeln!(text, "{name} {value}");
        }
        text
    }

    /// What the runner depends on.
    pub fn services(&self) -> Vec<ServiceHealth> {
        let (engine, runtime, policy) = {
            let latest = self.latest();
            (latest.engine.clone(), latest.runtime.clone(), latest.policy.clone())
        };
        let disk = self.machine.kernel().disk(&self.node.info.data_root.to_string_lossy()).ok();
        let used = disk.and_then(|disk| disk.used_percent()).map(|percent| percent.get());
        services::all(&self.node, engine, runtime, policy, used)
    }

    /// The report, from what is known now.
    pub fn report(&self, domain: &str) -> Healthcheck {
        let metrics = self.metrics().inspect_err(|reason| {
            let mut latest = self.latest();
            if latest.complaint.as_ref() != Some(reason) {
                tracing::warn!(reason, "no metrics are reported");
                latest.complaint = Some(reason.clone());
            }
        });
        let url = self.node.config.public_url(domain);
        Healthcheck {
            app_version: env!("CARGO_PKG_VERSION").to_owned(),
            domain: Some(domain.to_owned()),
            api_url: Some(url.clone()),
            proxy_url: Some(url),
            ssh_port: self.node.config.ssh_gateway.as_ref().map(|gateway| gateway.port),
            service_health: self.services(),
            metrics: metrics.ok(),
        }
    }

    /// Reports at once, then every interval, and soon after the engine or the sandboxes change materially.
    pub async fn run(
        self: Arc<Self>,
        control: Arc<dyn ControlPlane>,
        domain: String,
        stop: CancellationToken,
    ) {
        let config = self.node.config.clone();
        loop {
            let report = self.report(&domain);
            let sent = tokio::time::timeout(config.healthcheck_timeout, control.healthcheck(&report)).await;
            let failed = match sent {
                Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    if !error.is_told() {
                        tracing::warn!(%error, "a healthcheck was not taken");
                    }
                    true
                }
                Err(_) => {
                    tracing::warn!(after = ?config.healthcheck_timeout, "a healthcheck was not answered");
                    true
                }
            };
            let wait = if failed { Duration::from_secs(2) } else { config.healthcheck_interval };
            let told = (material(&report), self.clone());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed(told.0, &told.1, &domain), if !failed => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// The processor figure after one more sample: a mean that forgets within the window, and that a spike lifts at once.
fn weighted(before: Option<f64>, now: f64, window: f64) -> f64 {
    let before = before.unwrap_or(now);
    let mean = before + (now - before) / window.min(4.0);
    mean.max(now.min(100.0) * 0.5)
}

/// Why no sandbox could start under the runtime that was asked for.
fn lacking(node: &Node, info: &EngineInfo) -> Option<String> {
    node.config.runtime.as_deref().and_then(|runtime| info.lacks_runtime(runtime))
}

/// What a scheduler acts on at once: services, and the number of running sandboxes in coarse steps.
fn material(report: &Healthcheck) -> (Vec<ServiceHealth>, u64) {
    (
        report.service_health.clone(),
        report.metrics.as_ref().map_or(0, |m| m.current_started_sandboxes.div_ceil(5)),
    )
}

async fn changed(told: (Vec<ServiceHealth>, u64), health: &Health, domain: &str) {
    loop {
        tokio::time::sleep(SETTLE).await;
        if material(&health.report(domain)) != told {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract 14.5, row 5: a scheduler hears of a spike with the next report, and of its end within a minute.
    #[test]
    fn the_processor_figure_follows_a_spike_at_once_and_forgets_it_within_the_window() {
        let window = 12;
        let mut figure = weighted(None, 2.0, f64::from(window));
        assert_eq!(figure, 2.0);
        figure = weighted(Some(figure), 100.0, f64::from(window));
        assert!(figure >= 50.0, "{figure}");
        for _ in 0..window {
            figure = weighted(Some(figure), 2.0, f64::from(window));
        }
        assert!((2.0..5.0).contains(&figure), "{figure}");
        assert_eq!(weighted(Some(80.0), 10.0, 1.0), 10.0, "a window of one sample is that sample");
    }
}
