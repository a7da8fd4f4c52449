//! A thread that empties the queue into a collector. It has a runtime of its own: however slow the collector is, nothing else waits for it.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use pinfold_protobuf::Message;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::collector::ANSWER;
use crate::{Collector, Record, Records};

/// How long records wait for company.
const BATCH: Duration = Duration::from_secs(1);
/// Records of one kind in one request.
const BATCH_SIZE: usize = 512;
/// How long the last records may take (runner contract 12.2).
const LAST: Duration = Duration::from_secs(1);

/// The thread's handle. Dropping it without [`Exporter::stop`] loses the last records.
#[derive(Debug)]
pub struct Exporter {
    stop: oneshot::Sender<()>,
    stopped: mpsc::Receiver<()>,
}

impl Exporter {
    /// Starts the thread, and recording.
    pub fn start(collector: Collector, records: Records) -> io::Result<Self> {
        let (stop, told) = oneshot::channel();
        let (done, stopped) = mpsc::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        records.activate();
        let task = Task { collector, records, spans: Vec::new(), logs: Vec::new(), sending: 0 };
        std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            runtime.block_on(task.run(told));
            let _ = done.send(());
        })?;
        Ok(Self { stop, stopped })
    }

    /// Sends what is left, in a second at most, and blocks meanwhile.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.recv_timeout(LAST * 2);
    }
}

struct Task {
    collector: Collector,
    records: Records,
    spans: Vec<Message>,
    logs: Vec<Message>,
    /// Records that are on their way.
    sending: usize,
}

impl Task {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut batch = interval(BATCH);
        batch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = 0;
        loop {
            let due = tokio::select! {
                _ = &mut stop => break,
                record = self.records.next() => match record {
                    Some(record) => self.keep(record),
                    None => break,
                },
                _ = batch.tick() => true,
            };
            if due {
                // A stop does not wait for a collector that does not answer.
                let sent = tokio::select! {
                    () = self.flush(ANSWER) => true,
                    _ = &mut stop => false,
                };
                if !sent {
                    break;
                }
            }
            let dropped = self.records.dropped();
            if due && dropped > told {
                tracing::warn!(dropped = dropped - told, "telemetry was dropped");
                told = dropped;
            }
        }
        // Those of a request that the stop has cut off.
        self.records.lost(self.sending);
        while let Some(record) = self.records.waiting() {
            self.keep(record);
        }
        self.flush(LAST).await;
    }

    /// True when a batch is full.
    fn keep(&mut self, record: Record) -> bool {
        match record {
            Record::Span(span) => self.spans.push(span.message()),
            Record::Log(log) => self.logs.push(log.message()),
        }
        self.spans.len() >= BATCH_SIZE || self.logs.len() >= BATCH_SIZE
    }

    /// Nothing is sent twice: what a collector does not take is counted as dropped.
    async fn flush(&mut self, limit: Duration) {
        let (spans, logs) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.logs));
        let (of_spans, of_logs) = (spans.len(), logs.len());
        self.sending = of_spans + of_logs;
        let (spans, logs) = (self.collector.post("traces", spans), self.collector.post("logs", logs));
        let (spans, logs) = timeout(limit, async { tokio::join!(spans, logs) }).await.unwrap_or_default();
        self.records.lost(if spans { 0 } else { of_spans } + if logs { 0 } else { of_logs });
        self.sending = 0;
    }
}
