//! `GET /system/metrics` (toolbox contract 4): what this sandbox may use and uses. A figure that cannot be read is left out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use pinfold_cgroup::{CpuSampler, Kernel, Machine, Percent, Scope};
use pinfold_proto::toolbox::system::Metrics;
use tokio::sync::watch;

use crate::beat::Beat;

/// Length of a CPU sample.
const WINDOW: Duration = Duration::from_secs(5);

/// The sandbox's figures. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    machine: Arc<Machine>,
    cpu: watch::Receiver<Option<Percent>>,
}

impl Meter {
    /// Starts sampling the CPU: some tens of microseconds every five seconds.
    pub(crate) fn start() -> Self {
        let machine = Machine::new(Kernel::default(), Scope::Container);
        let (sender, cpu) = watch::channel(None);
        tokio::spawn(sample(CpuSampler::new(machine.clone(), WINDOW), sender));
        Self { machine: Arc::new(machine), cpu }
    }

    /// The figures that telemetry sends; those that cannot be read, and limits that do not exist, are left out.
    pub(crate) fn figures(&self) -> Figures {
        let kernel = self.machine.kernel();
        let memory = self.machine.memory().ok();
        let disk = kernel.disk("/").ok();
        let group = kernel.own().ok();
        let limit = group.as_ref().and_then(|group| group.memory_limit().ok().flatten());
        let tasks_limit = group.as_ref().and_then(|group| group.pids_limit().ok().flatten());
        let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Figures {
            tasks: group.as_ref().and_then(|group| group.pids().ok()).map(float),
            tasks_limit: tasks_limit.map(|limit| float(limit.value)),
            oom_kills: group.as_ref().and_then(|group| group.oom_kills().ok()).map(float),
            own_memory: number(&own, "VmRSS").map(|kib| float(kib * 1024)),
            own_threads: number(&own, "Threads").map(float),
            own_descriptors: std::fs::read_dir("/proc/self/fd").ok().map(|list| float(list.count() as u64)),
            cpu_limit: self.machine.cpu_limit().ok().map(|limit| limit.get()),
            cpu_percent: self.cpu.borrow().map(Percent::get),
            memory_limit: limit.map(|limit| float(limit.value)),
            memory_used: memory.map(|m| float(m.used)),
            memory_percent: memory.and_then(|m| m.used_percent()).map(Percent::get),
            disk_total: disk.map(|d| float(d.total)),
            disk_used: disk.map(|d| float(d.used)),
            disk_available: disk.map(|d| float(d.available)),
            disk_percent: disk.and_then(|d| d.used_percent()).map(Percent::get),
        }
    }

    /// Everything that can be measured now.
    pub(crate) fn read(&self) -> Metrics {
        let memory =
            self.machine.memory().inspect_err(|error| tracing::debug!(%error, "no memory figures")).ok();
        let disk = self
            .machine
            .kernel()
            .disk("/")
            .inspect_err(|error| tracing::debug!(%error, "no disk figures"))
            .ok();
        let now = jiff::Timestamp::now();
        Metrics {
            cpu_count: self.machine.cpu_limit().ok().map(|limit| whole(limit.get())),
            cpu_used_pct: Some(self.cpu.borrow().map_or(0.0, |p| p.get().clamp(0.0, 100.0))),
            mem_total: memory.map(|m| m.total),
            mem_used: memory.map(|m| m.used),
            mem_cache: memory.map(|m| m.cache),
            disk_total: disk.map(|d| d.total),
            disk_used: disk.map(|d| d.used),
            disk_free: disk.map(|d| d.available),
            timestamp: now.to_string(),
            timestamp_unix: now.as_second(),
        }
    }
}

/// See [`Meter::figures`]. Bytes, cores, percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) cpu_limit: Option<f64>,
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_limit: Option<f64>,
    pub(crate) memory_used: Option<f64>,
    pub(crate) memory_percent: Option<f64>,
    pub(crate) disk_total: Option<f64>,
    pub(crate) disk_used: Option<f64>,
    pub(crate) disk_available: Option<f64>,
    pub(crate) disk_percent: Option<f64>,
    /// Processes and threads of the sandbox.
    pub(crate) tasks: Option<f64>,
    pub(crate) tasks_limit: Option<f64>,
    /// What the kernel has killed for want of memory.
    pub(crate) oom_kills: Option<f64>,
    /// The daemon's own.
    pub(crate) own_memory: Option<f64>,
    pub(crate) own_threads: Option<f64>,
    pub(crate) own_descriptors: Option<f64>,
}

/// The number in a line of `/proc/<pid>/status`.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes as a gauge has them: exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Cores as a whole number: part of a core still is one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(cores: f64) -> u32 {
    // The cast saturates, and the amount is finite and positive.
    cores.ceil().max(1.0) as u32
}

async fn sample(mut sampler: CpuSampler, sender: watch::Sender<Option<Percent>>) {
    let beat = Beat::every(WINDOW);
    loop {
        let due = sampler.due();
        let next = async {
            // The first two readings come soon after each other.
            if due < WINDOW { tokio::time::sleep(due).await } else { beat.next().await }
        };
        tokio::select! {
            () = next => {}
            () = sender.closed() => return,
        }
        match sampler.sample() {
            Ok(percent) => drop(sender.send_replace(percent)),
            Err(error) => {
                tracing::warn!(%error, "the CPU use cannot be measured");
                return;
            }
        }
    }
}

pub(crate) fn router(meter: Meter) -> Router {
    Router::new()
        .route("/system/metrics", get(async |State(meter): State<Meter>| Json(meter.read())))
        .with_state(meter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_processes_status() {
        let status = "Name:\tx\nVmRSSExtra:\t1 kB\nVmRSS:\t    8148 kB\nThreads:\t3\n";
        assert_eq!(
            (number(status, "VmRSS"), number(status, "Threads"), number(status, "None")),
            (Some(8148), Some(3), None)
        );
    }
}
