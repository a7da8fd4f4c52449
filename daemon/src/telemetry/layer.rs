//! The daemon's own log as log records.

use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;

use super::otlp::Value;
use super::{LogRecord, Record, Telemetry, now};

/// A `tracing` layer that records events while telemetry is active.
#[derive(Debug, Clone)]
pub struct Layer(pub Telemetry);

/// What the exporter's own libraries say is not exported: it would feed itself.
const OWN: &str = "pinfold_daemon::telemetry";

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let meta = event.metadata();
        if !self.0.is_active() || !meta.target().starts_with("pinfold") || meta.target().starts_with(OWN) {
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
        let record =
            LogRecord { at: now(), severity, severity_text, body: text.body, attributes: text.attributes };
        self.0.record(Record::Log(record));
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
