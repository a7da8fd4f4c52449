//! Telemetry (toolbox contract 20): spans of requests, logs of the daemon and the entrypoint, the sandbox's figures, sent as OTLP over HTTP.
//!
//! Off unless `DAYTONA_OTEL_ENDPOINT` is set and `/init` was called. Exporting happens on a thread and a runtime of its own; the rest of the daemon only
//! puts records into a bounded queue and never waits: what does not fit is counted and dropped. Each `/init` starts anew with its token.

mod export;
mod layer;
mod otlp;
mod resource;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

pub(crate) use export::Exporter;
pub use layer::Layer;
pub(crate) use otlp::{LogRecord, Span};
pub(crate) use spans::trace;

/// Records that may wait for the exporter.
const QUEUE: usize = 4096;

/// What is sent, apart from metrics.
#[derive(Debug)]
pub(crate) enum Record {
    Span(Span),
    Log(LogRecord),
}

/// The way into the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    queue: mpsc::Sender<Record>,
    /// Whether a token is there; before that nothing is recorded.
    active: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

/// The exporter's end of the queue.
#[derive(Debug)]
pub struct Records {
    queue: mpsc::Receiver<Record>,
    active: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

/// The queue.
pub fn channel() -> (Telemetry, Records) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let (active, dropped) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let telemetry = Telemetry { queue: sender, active: Arc::clone(&active), dropped: Arc::clone(&dropped) };
    (telemetry, Records { queue, active, dropped })
}

impl Telemetry {
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn record(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
