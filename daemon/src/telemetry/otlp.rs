//! The OTLP messages that the daemon sends, encoded as protobuf (opentelemetry-proto 1.x). Only the fields that are used.

/// A protobuf message being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    pub(crate) fn number(mut self, field: u32, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    pub(crate) fn fixed(mut self, field: u32, value: u64) -> Self {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn double(self, field: u32, value: f64) -> Self {
        self.fixed(field, value.to_bits())
    }

    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, field: u32, value: &str) -> Self {
        if value.is_empty() { self } else { self.bytes(field, value.as_bytes()) }
    }

    pub(crate) fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    pub(crate) fn messages(self, field: u32, values: impl IntoIterator<Item = Message>) -> Self {
        values.into_iter().fold(self, |message, value| message.message(field, &value))
    }
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Bool(bool),
    Int(u64),
}

/// Name and value.
pub(crate) type Attribute = (&'static str, Value);

/// `KeyValue`.
pub(crate) fn attribute(name: &str, value: &Value) -> Message {
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

/// One server span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: [u8; 16],
    pub(crate) id: [u8; 8],
    pub(crate) parent: Option<[u8; 8]>,
    pub(crate) name: String,
    /// Nanoseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) failed: bool,
}

impl Span {
    pub(crate) fn message(&self) -> Message {
        let mut message = Message::default().bytes(1, &self.trace).bytes(2, &self.id);
        if let Some(parent) = &self.parent {
            message = message.bytes(4, parent);
        }
        // 2: SPAN_KIND_SERVER, STATUS_CODE_ERROR.
        message = message.text(5, &self.name).number(6, 2).fixed(7, self.start).fixed(8, self.end);
        message = message.messages(9, attributes(&self.attributes));
        if self.failed { message.message(15, &Message::default().number(3, 2)) } else { message }
    }
}

/// One log record.
#[derive(Debug, Clone)]
pub(crate) struct LogRecord {
    /// Nanoseconds since 1970.
    pub(crate) at: u64,
    /// 5 debug, 9 info, 13 warn, 17 error.
    pub(crate) severity: u64,
    pub(crate) severity_text: &'static str,
    pub(crate) body: String,
    pub(crate) attributes: Vec<Attribute>,
}

impl LogRecord {
    pub(crate) fn message(&self) -> Message {
        let body = Message::default().bytes(1, self.body.as_bytes());
        let message =
            Message::default().fixed(1, self.at).number(2, self.severity).text(3, self.severity_text);
        message.message(5, &body).messages(6, attributes(&self.attributes)).fixed(11, self.at)
    }
}

/// One gauge with one value.
pub(crate) fn gauge(name: &str, unit: &str, value: f64, at: u64, labels: &[Attribute]) -> Message {
    let point = Message::default().fixed(3, at).double(4, value).messages(7, attributes(labels));
    Message::default().text(1, name).text(3, unit).message(5, &Message::default().message(1, &point))
}

/// A whole request: resource → scope → items. Spans, logs and metrics have the same frame.
pub(crate) fn request(
    resource: &[(String, String)],
    scope: &str,
    items: impl IntoIterator<Item = Message>,
) -> Vec<u8> {
    let labels = resource.iter().map(|(name, value)| attribute(name, &Value::Text(value.clone())));
    let resource = Message::default().messages(1, labels);
    let scope = Message::default().text(1, scope).text(2, crate::VERSION);
    let of_scope = Message::default().message(1, &scope).messages(2, items);
    let of_resource = Message::default().message(1, &resource).message(2, &of_scope);
    Message::default().message(1, &of_resource).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_protobuf_does() {
        // protobuf.dev/programming-guides/encoding: field 1, varint 150; field 2, "testing".
        let message = Message::default().number(1, 150).text(2, "testing");
        assert_eq!(message.into_bytes(), b"\x08\x96\x01\x12\x07testing");
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
        };
        let expected = b"\x09\x01\0\0\0\0\0\0\0\x10\x09\x1a\x04INFO\x2a\x03\x0a\x01x\x32\x07\x0a\x01b\x12\x02\x10\x01\x59\x01\0\0\0\0\0\0\0";
        assert_eq!(log.message().into_bytes(), expected);
    }
}
