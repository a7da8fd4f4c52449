//! Telemetry as OTLP over HTTP, for the daemon and the runner: the messages, a bounded queue, and how they are sent.
//!
//! Whoever records something puts it into the queue and never waits: what does not fit is counted and dropped, and so is what a collector
//! refuses or does not take in time. What is recorded, and under which labels, is its user's business; nothing here knows sandboxes or jobs.

mod collector;
mod context;
mod exporter;
mod logs;
mod message;
mod settings;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

pub use collector::Collector;
pub use context::TraceContext;
pub use exporter::Exporter;
pub use logs::LogLayer;
pub use message::{Attribute, LogRecord, Span, SpanKind, Value, gauge, request};
pub use pinfold_protobuf::Message;
pub use settings::Settings;
pub use spans::{SpanLayer, current, inject, is_for_telemetry};

/// Records that may wait for the exporter.
const QUEUE: usize = 4096;

/// What is sent, apart from metrics.
#[derive(Debug)]
pub enum Record {
    /// A finished span.
    Span(Span),
    /// A line of a log.
    Log(LogRecord),
}

/// The way into the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    queue: mpsc::Sender<Record>,
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

/// The queue. Nothing is recorded before [`Records::activate`].
pub fn channel() -> (Telemetry, Records) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let (active, dropped) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let telemetry = Telemetry { queue: sender, active: Arc::clone(&active), dropped: Arc::clone(&dropped) };
    (telemetry, Records { queue, active, dropped })
}

impl Telemetry {
    /// Whether anything is recorded.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Takes a record, or counts it as dropped when the queue is full.
    pub fn record(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many records were lost so far, because the queue was full or the collector did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Records {
    /// Turns recording on.
    pub fn activate(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// The next record; `None` when every [`Telemetry`] is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Record> {
        self.queue.recv().await
    }

    /// A record that is there already.
    pub fn waiting(&mut self) -> Option<Record> {
        self.queue.try_recv().ok()
    }

    /// Counts records that were taken from the queue and could not be sent.
    pub fn lost(&self, count: usize) {
        self.dropped.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }

    /// How many records were lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (telemetry, records) = channel();
        let line = || LogRecord { body: "x".to_owned(), ..LogRecord::default() };
        for _ in 0..QUEUE + 3 {
            telemetry.record(Record::Log(line()));
        }
        records.lost(2);
        assert_eq!((telemetry.dropped(), records.dropped()), (5, 5));
    }
}
