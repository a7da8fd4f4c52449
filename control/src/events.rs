//! What happened, for event sockets. A reader that falls behind loses events, not memory: its client looks again by itself.

use serde_json::{Value, json};
use tokio::sync::broadcast;

/// One event: its name and payload.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    pub(crate) payload: Value,
}

/// Where events are told and heard.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<Event>);

impl Events {
    /// A channel that holds the latest 1024 events.
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(1024))
    }

    /// Tells an event. The payload is only composed if someone listens.
    pub(crate) fn emit(&self, name: &'static str, payload: impl FnOnce() -> Value) {
        if self.0.receiver_count() > 0 {
            // Nobody listening any more is as good as nobody listening.
            let _ = self.0.send(Event { name, payload: payload() });
        }
    }

    /// Hears events from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

/// Payload of a change of state of `what`.
pub(crate) fn changed(what: &str, object: Value, key: &str, old: &str, new: &str) -> Value {
    json!({ what: object, format!("old{key}"): old, format!("new{key}"): new })
}
