//! Telemetry of the runner (runner contract 12.2): spans and logs as OTLP over HTTP. Its figures are for Prometheus, at `/metrics`.
//!
//! A span is an ordinary `tracing` span whose target ends in `::span`; without telemetry such spans cost nothing, because nobody is interested in
//! them. Like the log, telemetry is one for a process.

use std::io;
use std::sync::OnceLock;

use pinfold_otlp::{Collector, LogLayer, SpanLayer, Telemetry, is_for_telemetry};
pub use pinfold_otlp::{Exporter, Settings};
use pinfold_settings::{LogObserver, is_loggable};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The HTTP client.
    #[error("could not set up the telemetry client: {0}")]
    Client(String),
    /// The exporter's thread.
    #[error("could not start the telemetry thread: {0}")]
    Thread(#[source] io::Error),
}

/// Starts exporting. The observers belong into [`pinfold_settings::init_logging`]; `level` is that of the log, and of what is exported of it.
pub fn start(
    settings: &Settings,
    environment: &str,
    level: LevelFilter,
) -> Result<(Exporter, Vec<LogObserver>), TelemetryError> {
    let client = crate::jobs::http_client().map_err(|error| TelemetryError::Client(error.to_string()))?;
    let mut collector = Collector::new(client, settings.endpoint.clone(), "pinfold-runner");
    for (name, value) in &settings.headers {
        collector.header(name, value);
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let labels = [
        ("service.name", "daytona-runner".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", host.unwrap_or_else(|| "unknown".to_owned())),
        ("deployment.environment.name", environment.to_owned()),
    ];
    collector.labels = labels.map(|(name, value)| (name.to_owned(), value)).into();
    let (telemetry, records) = pinfold_otlp::channel();
    let exporter = Exporter::start(collector, records).map_err(TelemetryError::Thread)?;
    let telemetry = TELEMETRY.get_or_init(|| telemetry);
    let mut observers: Vec<LogObserver> = Vec::new();
    if settings.traces {
        observers.push(SpanLayer(telemetry.clone()).with_filter(filter_fn(is_for_telemetry)).boxed());
    }
    if settings.logs {
        observers
            .push(LogLayer(telemetry.clone()).with_filter(filter_fn(is_loggable)).with_filter(level).boxed());
    }
    Ok((exporter, observers))
}

/// How much was dropped, in the Prometheus text format; nothing when telemetry is off.
pub(crate) fn prometheus() -> String {
    let Some(telemetry) = TELEMETRY.get() else { return String::new() };
    let name = "pinfold_telemetry_dropped_total";
    let help = "Spans and log records that could not be exported.";
    format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n", telemetry.dropped())
}
