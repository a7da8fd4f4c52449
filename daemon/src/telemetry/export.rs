//! The exporter's thread: it batches records, follows the entrypoint's log, reads the figures, and posts all of it.

use std::time::Duration;

use pinfold_otlp::{Collector, LogRecord, Message, Record, Records, Value, gauge, now};
use pinfold_process::Follower;
use pinfold_proto::markers::Stream;
use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::resource;
use crate::config::Config;
use crate::metrics::Meter;

/// How long records wait for company.
const BATCH: Duration = Duration::from_secs(5);
/// Records of one kind in one request.
const BATCH_SIZE: usize = 512;
/// How often the figures are sent.
const METRICS: Duration = Duration::from_secs(60);
/// How long a collector may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the last records of each kind may take.
const LAST: Duration = Duration::from_secs(1);
const SCOPE: &str = "daytona.sandbox";

/// The thread's handle.
#[derive(Debug)]
pub(crate) struct Exporter {
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

struct Task {
    config: Config,
    collector: Collector,
    token: watch::Receiver<Option<String>>,
    records: Records,
    meter: Meter,
    entrypoint: Option<Follower>,
    spans: Vec<Message>,
    logs: Vec<Message>,
    /// How many dropped records were told of.
    dropped: u64,
}

impl Exporter {
    /// Starts the thread; nothing is sent before the first token.
    pub(crate) fn start(
        config: &Config,
        records: Records,
        token: watch::Receiver<Option<String>>,
        meter: Meter,
        entrypoint: Option<Follower>,
    ) -> std::io::Result<Option<Self>> {
        let Some(endpoint) = config.telemetry.as_ref().map(|telemetry| telemetry.endpoint.clone()) else {
            return Ok(None);
        };
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(std::io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
        let client = Client::builder().tls_backend_preconfigured(tls).dns_resolver(Names);
        let client = client.build().map_err(std::io::Error::other)?;
        let (stop, told) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        let task = Task {
            config: config.clone(),
            collector: Collector::new(client, endpoint, SCOPE),
            token,
            records,
            meter,
            entrypoint,
            spans: Vec::new(),
            logs: Vec::new(),
            dropped: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            runtime.block_on(task.run(told));
            let _ = done.send(());
        })?;
        Ok(Some(Self { stop, stopped }))
    }

    /// Sends what is left, in a few seconds at most.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = timeout(LAST * 4, self.stopped).await;
    }
}

impl Task {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        tokio::select! {
            _ = &mut stop => return,
            found = self.token.wait_for(Option::is_some) => if found.is_err() { return },
        }
        self.begin();
        let mut batch = interval(BATCH);
        batch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut metrics = tokio::time::interval_at(Instant::now() + METRICS, METRICS);
        metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stop => break,
                record = self.records.next() => match record {
                    Some(record) => self.keep(record),
                    None => break,
                },
                chunk = next(self.entrypoint.as_mut()) => match chunk {
                    Some((stream, bytes)) => self.entrypoint_chunk(stream, &bytes),
                    None => self.entrypoint = None,
                },
                changed = self.token.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    // What was recorded under the old token could only be sent with the new one; both are this sandbox's.
                    self.begin();
                }
                _ = batch.tick() => self.flush(ANSWER).await,
                _ = metrics.tick() => self.measure().await,
            }
            if self.spans.len() >= BATCH_SIZE || self.logs.len() >= BATCH_SIZE {
                self.flush(ANSWER).await;
            }
        }
        while let Some(record) = self.records.waiting() {
            self.keep(record);
        }
        self.flush(LAST).await;
        let _ = timeout(LAST, self.measure()).await;
    }

    /// A token came: the labels are read anew, and recording is on.
    fn begin(&mut self) {
        self.token.mark_unchanged();
        let token = self.token.borrow().clone().unwrap_or_default();
        self.collector.header("sandbox-auth-token", &token);
        self.collector.labels = resource::labels(&self.config);
        self.records.activate();
    }

    fn keep(&mut self, record: Record) {
        match record {
            Record::Span(span) => self.spans.push(span.message()),
            Record::Log(log) => self.logs.push(log.message()),
        }
    }

    fn entrypoint_chunk(&mut self, stream: Stream, bytes: &[u8]) {
        let (severity, severity_text) = match stream {
            Stream::Stdout => (9, "INFO"),
            Stream::Stderr => (17, "ERROR"),
        };
        let body = String::from_utf8_lossy(bytes).into_owned();
        let attributes = vec![("daytona-entrypoint", Value::Bool(true))];
        self.logs
            .push(LogRecord { at: now(), severity, severity_text, body, attributes, within: None }.message());
    }

    async fn flush(&mut self, limit: Duration) {
        let dropped = self.records.dropped();
        if dropped > self.dropped {
            tracing::warn!(dropped = dropped - self.dropped, "telemetry could not keep up");
            self.dropped = dropped;
        }
        let (spans, logs) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.logs));
        let (spans, logs) = (self.collector.post("traces", spans), self.collector.post("logs", logs));
        let both = async { tokio::join!(spans, logs) };
        let _ = timeout(limit, both).await;
    }

    async fn measure(&self) {
        let metrics = self.figures();
        // Telemetry that is lost is lost; the collector has logged why.
        let _ = self.collector.post("metrics", metrics).await;
    }

    fn figures(&self) -> Vec<Message> {
        let at = now();
        let device = [("device", Value::Text("/".to_owned()))];
        let mut all = Vec::new();
        let mut put = |name: &str, unit, value: Option<f64>, labels: &[_]| {
            let name = if name.starts_with("process.") { name.to_owned() } else { format!("{SCOPE}.{name}") };
            all.extend(value.map(|value| gauge(&name, unit, value, at, labels)));
        };
        let figures = self.meter.figures();
        put("cpu.limit", "{cores}", figures.cpu_limit, &[]);
        put("cpu.utilization", "%", figures.cpu_percent, &[]);
        put("memory.limit", "By", figures.memory_limit, &[]);
        put("memory.usage", "By", figures.memory_used, &[]);
        put("memory.utilization", "%", figures.memory_percent, &[]);
        put("filesystem.total", "By", figures.disk_total, &device);
        put("filesystem.usage", "By", figures.disk_used, &device);
        put("filesystem.available", "By", figures.disk_available, &device);
        put("filesystem.utilization", "%", figures.disk_percent, &device);
        // Beyond the contract: what a sandbox dies of, and OpenTelemetry's own names for the daemon's part.
        put("pids.usage", "{tasks}", figures.tasks, &[]);
        put("pids.limit", "{tasks}", figures.tasks_limit, &[]);
        put("memory.oom_kills", "{kills}", figures.oom_kills, &[]);
        put("process.memory.usage", "By", figures.own_memory, &[]);
        put("process.thread.count", "{threads}", figures.own_threads, &[]);
        put("process.open_file_descriptor.count", "{descriptors}", figures.own_descriptors, &[]);
        all
    }
}

async fn next(follower: Option<&mut Follower>) -> Option<(Stream, Vec<u8>)> {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

/// Looks names up without the C library's resolver, which a static binary must not use.
struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let resolver =
                hickory_resolver::TokioResolver::builder_tokio().and_then(|builder| builder.build())?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> =
                found.iter().map(|address| std::net::SocketAddr::new(address, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
