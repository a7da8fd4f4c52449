//! Where in which trace something happens (W3C trace context), and what its caller wants passed on (W3C baggage).

use std::fmt::Write;

/// A span, or a remote caller's span, as it travels in headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// The `baggage` header, as it came.
    pub baggage: Option<String>,
}

fn random_span() -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&uuid::Uuid::new_v4().into_bytes()[..8]);
    id
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl TraceContext {
    /// Reads a `traceparent` header: `00-<trace id>-<parent id>-<flags>`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let known = version.len() == 2 && version != "ff" && trace.len() == 32 && parent.len() == 16;
        let hexadecimal = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        let known = known && hexadecimal(trace) && hexadecimal(parent);
        let trace = known.then(|| u128::from_str_radix(trace, 16).ok()).flatten().filter(|n| *n != 0)?;
        let parent = u64::from_str_radix(parent, 16).ok().filter(|n| *n != 0)?;
        Some(Self { trace: trace.to_be_bytes(), span: parent.to_be_bytes(), baggage: None })
    }

    /// A new trace.
    pub fn root() -> Self {
        Self { trace: uuid::Uuid::new_v4().into_bytes(), span: random_span(), baggage: None }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random_span(), ..self.clone() }
    }

    /// The `traceparent` header; everything is sampled.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id(), self.span_id())
    }

    /// The trace, in hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex(&self.trace)
    }

    /// The span, in hexadecimal digits.
    pub fn span_id(&self) -> String {
        hex(&self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_trace_contexts() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = TraceContext::parse(text).unwrap();
        assert_eq!((read.trace[0], read.trace[15], read.span[1], read.span[7]), (0x4b, 0x36, 0xf0, 0xb7));
        assert_eq!(read.traceparent(), text);
        let child = read.child();
        assert!(child.trace == read.trace && child.span != read.span);
        for bad in [
            "",
            "00-0-0-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(TraceContext::parse(bad).is_none(), "{bad}");
        }
    }
}
