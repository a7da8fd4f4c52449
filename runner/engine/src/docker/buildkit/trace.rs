//! The builder's progress as log lines (runner contract 7.4): `StatusResponse` of buildkit's control API, as far as it is shown.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinfold_protobuf::fields;

/// What was shown of a step.
#[derive(Debug, Clone, Default)]
struct Step {
    number: usize,
    started: bool,
    cached: bool,
    failed: bool,
}

/// What was shown so far.
#[derive(Debug, Default)]
pub(super) struct Trace {
    steps: HashMap<String, Step>,
}

/// `Vertex`.
#[derive(Debug, Default)]
struct Vertex {
    digest: String,
    name: String,
    cached: bool,
    started: bool,
    error: String,
}

impl Trace {
    /// What one message, in base64, has to show; nothing when it cannot be read.
    pub(super) fn lines(&mut self, aux: &str) -> Vec<u8> {
        let Ok(message) = STANDARD.decode(aux) else { return Vec::new() };
        let mut text = Vec::new();
        for (number, value) in fields(&message) {
            match number {
                1 => self.vertex(&vertex(value.bytes()), &mut text),
                3 => output(value.bytes(), &mut text),
                _ => {}
            }
        }
        text
    }

    fn vertex(&mut self, vertex: &Vertex, text: &mut Vec<u8>) {
        let count = self.steps.len();
        let step = self.steps.entry(vertex.digest.clone()).or_default();
        if step.number == 0 {
            step.number = count + 1;
        }
        let (number, name) = (step.number, &vertex.name);
        if vertex.cached && !step.cached {
            step.cached = true;
            text.extend_from_slice(format!("#{number} CACHED {name}\n").as_bytes());
        } else if vertex.started && !step.started && !step.cached {
            text.extend_from_slice(format!("#{number} {name}\n").as_bytes());
        }
        step.started |= vertex.started;
        if !vertex.error.is_empty() && !step.failed {
            step.failed = true;
            text.extend_from_slice(format!("ERROR: {}\n", vertex.error).as_bytes());
        }
    }
}

fn vertex(message: &[u8]) -> Vertex {
    let mut vertex = Vertex::default();
    for (number, value) in fields(message) {
        match number {
            1 => vertex.digest = value.text(),
            3 => vertex.name = value.text(),
            4 => vertex.cached = value.number() != 0,
            5 => vertex.started = true,
            7 => vertex.error = value.text(),
            _ => {}
        }
    }
    vertex
}

/// `VertexLog`: its bytes as they are.
fn output(message: &[u8], text: &mut Vec<u8>) {
    let message = fields(message).find(|(number, _)| *number == 4);
    text.extend_from_slice(message.map(|(_, value)| value.bytes()).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use pinfold_protobuf::Message;

    use super::*;

    fn vertex(digest: &str, started: bool, cached: bool, error: &str) -> Message {
        let mut message = Message::default().text(1, digest).text(3, &format!("RUN {digest}"));
        if cached {
            message = message.number(4, 1);
        }
        if started {
            message = message.message(5, &Message::default().number(1, 1));
        }
        message.text(7, error)
    }

    #[test]
    fn each_step_is_shown_once_and_its_output_as_it_is() {
        let mut trace = Trace::default();
        let mut lines = |message: Message| {
            String::from_utf8(trace.lines(&STANDARD.encode(message.into_bytes()))).unwrap()
        };
        let waiting = Message::default().message(1, &vertex("a", false, false, ""));
        assert_eq!(lines(waiting), "", "a step that waits is not shown");
        let both = [vertex("a", true, false, ""), vertex("b", true, true, "")];
        assert_eq!(lines(Message::default().messages(1, both)), "#1 RUN a\n#2 CACHED RUN b\n");
        let said = Message::default().text(1, "a").number(3, 1).text(4, "hello\n");
        let again = Message::default().message(1, &vertex("a", true, false, "")).message(3, &said);
        assert_eq!(lines(again), "hello\n");
        let failed = Message::default().message(1, &vertex("a", true, false, "exit code: 1"));
        assert_eq!(lines(failed.clone()), "ERROR: exit code: 1\n");
        assert_eq!(lines(failed), "");
        assert!(trace.lines("no base64").is_empty());
    }
}
