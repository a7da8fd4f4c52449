//! Spans from `tracing`'s.
//!
//! Only spans whose target ends in `::span` are exported, and only they: those of the log have other fields and other names. Fields with a meaning
//! here: `otel.name` replaces the name, `otel.kind` is `server` or `client`, `error` marks a failure, `traceparent` and `baggage` say whose
//! child a span is that has no parent of ours, and `otel.context` gives it ids that were chosen before it. All others become attributes.

use std::fmt::Debug;

use http::{HeaderMap, HeaderValue};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::message::{Attribute, SpanKind, Value};
use crate::{Record, Span, Telemetry, TraceContext, now};

/// Whether a `tracing` span is one for telemetry, and none of the log's.
pub fn is_for_telemetry(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().ends_with("::span")
}

/// A `tracing` layer that records spans for telemetry when they end. It belongs on a [`Registry`].
#[derive(Debug, Clone)]
pub struct SpanLayer(pub Telemetry);

/// What is known of a span that has not ended.
#[derive(Debug)]
struct Open {
    context: TraceContext,
    parent: Option<[u8; 8]>,
    start: u64,
    fields: Fields,
}

#[derive(Debug, Default)]
struct Fields {
    name: Option<String>,
    kind: SpanKind,
    failed: bool,
    traceparent: Option<TraceContext>,
    baggage: Option<String>,
    context: Option<TraceContext>,
    attributes: Vec<Attribute>,
}

impl Fields {
    fn put(&mut self, name: &'static str, value: Value) {
        match (name, value) {
            ("otel.name", Value::Text(text)) => self.name = Some(text),
            ("otel.kind", Value::Text(text)) => {
                self.kind = match text.as_str() {
                    "server" => SpanKind::Server,
                    "client" => SpanKind::Client,
                    _ => SpanKind::Internal,
                }
            }
            ("otel.context", Value::Text(text)) => self.context = TraceContext::parse(&text),
            ("traceparent", Value::Text(text)) => self.traceparent = TraceContext::parse(&text),
            ("baggage", Value::Text(text)) => self.baggage = Some(text).filter(|text| !text.is_empty()),
            (name, value) => {
                self.failed |= name == "error" && value != Value::Bool(false);
                self.attributes.push((name, value));
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field.name(), Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), Value::Text(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Value::Int(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::Bool(value));
    }
}

impl<S> tracing_subscriber::Layer<S> for SpanLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|span| is_for_telemetry(span.metadata())) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let around = open_span(span.parent()).or_else(|| fields.traceparent.take());
        let own = fields.context.take();
        let mut own =
            own.unwrap_or_else(|| around.as_ref().map_or_else(TraceContext::root, TraceContext::child));
        own.baggage = fields.baggage.take().or_else(|| around.as_ref()?.baggage.clone());
        let open = Open { context: own, parent: around.map(|around| around.span), start: now(), fields };
        // With two of these layers the last one has it; an insertion would panic.
        span.extensions_mut().replace(open);
    }

    fn on_record(&self, id: &Id, values: &Values<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        if !self.0.is_active() {
            return;
        }
        let name = open.fields.name.unwrap_or_else(|| span.name().to_owned());
        self.0.record(Record::Span(Span {
            trace: open.context.trace,
            id: open.context.span,
            parent: open.parent,
            name,
            kind: open.fields.kind,
            start: open.start,
            end: now(),
            attributes: open.fields.attributes,
            failed: open.fields.failed,
        }));
    }
}

/// The innermost span for telemetry around `span`, itself included.
pub(crate) fn open_span<'a, R: LookupSpan<'a>>(span: Option<SpanRef<'a, R>>) -> Option<TraceContext> {
    span?.scope().find_map(|span| span.extensions().get::<Open>().map(|open| open.context.clone()))
}

/// The span for telemetry in which the caller is, if there is one.
pub fn current() -> Option<TraceContext> {
    tracing::Span::current()
        .with_subscriber(|(id, dispatch)| open_span(dispatch.downcast_ref::<Registry>()?.span(id)))
        .flatten()
}

/// Adds the current span to the headers of a request that is about to be made, so that its answerer can go on from there.
pub fn inject(headers: &mut HeaderMap) {
    let Some(context) = current() else { return };
    if let Ok(value) = HeaderValue::from_str(&context.traceparent()) {
        headers.insert("traceparent", value);
    }
    if let Some(Ok(value)) = context.baggage.as_deref().map(HeaderValue::from_str) {
        headers.insert("baggage", value);
    }
}
