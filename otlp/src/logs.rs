//! A process's own log as log records.

use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::message::Value;
use crate::spans::open_span;
use crate::{LogRecord, Record, Telemetry, now};

/// A `tracing` layer that records events while telemetry is active.
#[derive(Debug, Clone)]
pub struct LogLayer(pub Telemetry);

/// What is ours to export.
const OURS: &str = "pinfold";
/// What exporters say of themselves is not: they would feed themselves.
const OWN: [&str; 2] = ["pinfold_otlp", "pinfold_daemon::telemetry"];

impl<S> tracing_subscriber::Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let meta = event.metadata();
        let target = meta.target();
        if !self.0.is_active() || !target.starts_with(OURS) || OWN.iter().any(|own| target.starts_with(own)) {
            return;
        }
        let (severity, severity_text) = match *meta.level() {
            Level::ERROR => (17, "ERROR"),
            Level::WARN => (13, "WARN"),
            Level::INFO => (9, "INFO"),
            Level::DEBUG => (5, "DEBUG"),
            Level::TRACE => (1, "TRACE"),
        };
        let mut text = Text::default();
        event.record(&mut text);
        self.0.record(Record::Log(LogRecord {
            at: now(),
            severity,
            severity_text,
            body: text.body,
            attributes: text.attributes,
            within: open_span(context.event_span(event)).map(|span| (span.trace, span.span)),
        }));
    }
}

#[derive(Default)]
struct Text {
    body: String,
    attributes: Vec<(&'static str, Value)>,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.body, "{value:?}");
        } else {
            self.attributes.push((field.name(), Value::Text(format!("{value:?}"))));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.attributes.push((field.name(), Value::Text(value.to_owned())));
    }
}
