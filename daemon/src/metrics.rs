//! `GET /system/metrics` (toolbox contract 4): what this sandbox may use and uses. A figure that cannot be read is left out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use pinfold_cgroup::{CpuSampler, Kernel, Machine, Percent, Scope};
use pinfold_proto::toolbox::system::Metrics;
use tokio::sync::watch;

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

/// Cores as a whole number: part of a core still is one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(cores: f64) -> u32 {
    // The cast saturates, and the amount is finite and positive.
    cores.ceil().max(1.0) as u32
}

async fn sample(mut sampler: CpuSampler, sender: watch::Sender<Option<Percent>>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(sampler.due()) => {}
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
