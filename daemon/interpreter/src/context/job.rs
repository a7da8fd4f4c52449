//! What passes between a client's socket and the task of its context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::CloseFrame;
use pinfold_http::ws;
use pinfold_proto::toolbox::interpreter::ExecutionMessage;
use tokio::sync::{Notify, mpsc};

/// The most messages on their way to a client; while they are, its worker waits.
const ON_THE_WAY: usize = 32;

/// One execution.
#[derive(Debug)]
pub(super) struct Job {
    pub code: String,
    pub envs: BTreeMap<String, String>,
    /// `None` for no limit.
    pub limit: Option<Duration>,
    /// To the client, which may be gone.
    pub events: mpsc::Sender<Event>,
    /// The client wants it to stop.
    pub interrupt: Arc<Notify>,
}

/// What a client is told.
#[derive(Debug)]
pub(super) enum Event {
    Message(ExecutionMessage),
    /// It is over; nothing follows.
    Over(CloseFrame),
}

/// The client's side of a job.
#[derive(Debug)]
pub(super) struct Handle {
    pub events: mpsc::Receiver<Event>,
    pub interrupt: Arc<Notify>,
}

impl Job {
    pub(super) fn new(
        code: String,
        envs: BTreeMap<String, String>,
        limit: Option<Duration>,
    ) -> (Self, Handle) {
        let (sender, events) = mpsc::channel(ON_THE_WAY);
        let interrupt = Arc::new(Notify::new());
        let handle = Handle { events, interrupt: Arc::clone(&interrupt) };
        (Self { code, envs, limit, events: sender, interrupt }, handle)
    }

    /// Ends a job that was never run.
    pub(super) fn reject(self, code: u16, reason: &str) {
        // The channel is empty, so there is room.
        let _ = self.events.try_send(Event::Over(ws::close_frame(code, reason)));
    }
}
