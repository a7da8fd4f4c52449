//! The OTLP messages that Pinfold sends (opentelemetry-proto 1.x). Only the fields that are used.

use pinfold_protobuf::Message;

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A truth.
    Bool(bool),
    /// A number that is not negative.
    Int(u64),
}

/// Name and value.
pub type Attribute = (&'static str, Value);

/// `KeyValue`.
fn attribute(name: &str, value: &Value) -> Message {
    let any = match value {
        Value::Text(text) => Message::default().bytes(1, text.as_bytes()),
        Value::Bool(value) => Message::default().number(2, u64::from(*value)),
        Value::Int(value) => Message::default().number(3, *value),
    };
    Message::default().text(1, name).message(2, &any)
}

fn attributes(list: &[Attribute]) -> impl Iterator<Item = Message> + '_ {
    list.iter().map(|(name, value)| attribute(name, value))
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpanKind {
    /// Work of our own.
    #[default]
    Internal,
    /// A request that we answer.
    Server,
    /// A request that we make.
    Client,
}

/// One finished span.
#[derive(Debug, Clone, Default)]
pub struct Span {
    /// The trace it belongs to.
    pub trace: [u8; 16],
    /// Its own id.
    pub id: [u8; 8],
    /// The span it happened in, if any.
    pub parent: Option<[u8; 8]>,
    /// Its name: few different ones, no ids.
    pub name: String,
    /// Which side of a call it is.
    pub kind: SpanKind,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// What else is known.
    pub attributes: Vec<Attribute>,
    /// Whether it failed.
    pub failed: bool,
}

impl Span {
    /// `Span`.
    pub fn message(&self) -> Message {
        let mut message = Message::default().bytes(1, &self.trace).bytes(2, &self.id);
        if let Some(parent) = &self.parent {
            message = message.bytes(4, parent);
        }
        let kind = match self.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        };
        message = message.text(5, &self.name).number(6, kind).fixed(7, self.start).fixed(8, self.end);
        message = message.messages(9, attributes(&self.attributes));
        // 2: STATUS_CODE_ERROR.
        if self.failed { message.message(15, &Message::default().number(3, 2)) } else { message }
    }
}

/// One log record.
#[derive(Debug, Clone, Default)]
pub struct LogRecord {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// 5 debug, 9 info, 13 warn, 17 error.
    pub severity: u64,
    /// The severity's name.
    pub severity_text: &'static str,
    /// What it says.
    pub body: String,
    /// What else is known.
    pub attributes: Vec<Attribute>,
    /// The trace and the span in which it was written, if any.
    pub within: Option<([u8; 16], [u8; 8])>,
}

impl LogRecord {
    /// `LogRecord`.
    pub fn message(&self) -> Message {
        let body = Message::default().bytes(1, self.body.as_bytes());
        let mut message =
            Message::default().fixed(1, self.at).number(2, self.severity).text(3, self.severity_text);
        message = message.message(5, &body).messages(6, attributes(&self.attributes));
        if let Some((trace, span)) = &self.within {
            message = message.bytes(9, trace).bytes(10, span);
        }
        message.fixed(11, self.at)
    }
}

/// One gauge with one value.
pub fn gauge(name: &str, unit: &str, value: f64, at: u64, labels: &[Attribute]) -> Message {
    let point = Message::default().fixed(3, at).double(4, value).messages(7, attributes(labels));
    Message::default().text(1, name).text(3, unit).message(5, &Message::default().message(1, &point))
}

/// A whole request: resource → scope → items. Spans, logs and metrics have the same frame.
pub fn request(
    resource: &[(String, String)],
    scope: &str,
    items: impl IntoIterator<Item = Message>,
) -> Vec<u8> {
    let labels = resource.iter().map(|(name, value)| attribute(name, &Value::Text(value.clone())));
    let resource = Message::default().messages(1, labels);
    let scope = Message::default().text(1, scope).text(2, env!("CARGO_PKG_VERSION"));
    let of_scope = Message::default().message(1, &scope).messages(2, items);
    let of_resource = Message::default().message(1, &resource).message(2, &of_scope);
    Message::default().message(1, &of_resource).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_protocol_says() {
        let gauge = gauge("g", "1", 1.0, 2, &[]).into_bytes();
        assert_eq!(
            gauge,
            b"\x0a\x01g\x1a\x011\x2a\x14\x0a\x12\x19\x02\0\0\0\0\0\0\0\x21\0\0\0\0\0\0\xf0\x3f"
        );
        let log = LogRecord {
            at: 1,
            severity: 9,
            severity_text: "INFO",
            body: "x".into(),
            attributes: vec![("b", Value::Bool(true))],
            within: None,
        };
        let expected = b"\x09\x01\0\0\0\0\0\0\0\x10\x09\x1a\x04INFO\x2a\x03\x0a\x01x\x32\x07\x0a\x01b\x12\x02\x10\x01\x59\x01\0\0\0\0\0\0\0";
        assert_eq!(log.message().into_bytes(), expected);
    }
}
