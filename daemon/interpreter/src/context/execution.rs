//! Running one job on a worker: its output to the client, its interruption, its end.
//!
//! Invariants: the client gets all output, then the error if there is one, then the control message, then the close; a client that reads slowly
//! slows the worker down, and one that is gone does not; an interrupted execution is over within [`INSIST`], with its worker or without.

use std::collections::VecDeque;
use std::time::Duration;

use pinfold_http::ws;
use pinfold_proto::markers::Stream;
use pinfold_proto::toolbox::interpreter::{COMPLETED, ExecutionMessage, INTERRUPTED, MessageKind};
use pinfold_proto::utf8::Decoder;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use super::channel::{Frame, Kind};
use super::job::{Event, Job};
use super::worker::{self, Worker};

/// Close code of an execution that ran out of time or was interrupted.
const TIMED_OUT: u16 = 4008;
/// While the interrupt has not reached the code, it is repeated this often, and its children are interrupted too.
const REPEAT: Duration = Duration::from_millis(100);
/// After this long without a reaction the worker is killed.
const INSIST: Duration = Duration::from_secs(2);

/// What remains of the worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It can take the next job.
    Usable,
    /// It is gone, or must go.
    Lost,
}

#[derive(Debug, Serialize)]
struct Request<'a> {
    code: &'a str,
    envs: &'a std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Raised {
    name: String,
    value: String,
    traceback: String,
}

/// Why an execution is being interrupted, and what comes next.
#[derive(Debug)]
struct Interruption {
    why: String,
    /// `None` once it has reached the code.
    repeat_at: Option<Instant>,
    kill_at: Instant,
}

/// Runs `job` to its end, whatever that is. When dropped early the worker must be stopped.
pub(super) async fn run(worker: &mut Worker, execution: u64, job: &Job) -> Ended {
    let mut client = Client::new(&job.events);
    // What was written between executions belongs to nobody.
    worker.drain();
    let request = serde_json::to_vec(&Request { code: &job.code, envs: &job.envs }).unwrap_or_default();
    let mut deadline = job.limit.map(|limit| Instant::now() + limit);
    let mut interruption: Option<Interruption> = None;
    let mut raised = None;
    if let Err(error) = worker.run(execution, &request).await {
        return client.lost(&error.to_string()).await;
    }
    loop {
        let (repeat_at, kill_at) =
            interruption.as_ref().map_or((None, None), |i| (i.repeat_at, Some(i.kill_at)));
        let event = tokio::select! {
            biased;
            () = at(deadline) => {
                deadline = None;
                let seconds = job.limit.unwrap_or_default().as_secs_f64();
                interrupt(worker, &mut interruption, || format!("the execution ran into its timeout of {seconds} s"));
                continue;
            }
            () = job.interrupt.notified(), if interruption.is_none() => {
                interrupt(worker, &mut interruption, || "the client interrupted the execution".to_owned());
                continue;
            }
            () = at(repeat_at) => match repeat(worker).await {
                Some(frame) => worker::Event::Said(frame),
                None => {
                    if let Some(interruption) = &mut interruption {
                        interruption.repeat_at = Some(Instant::now() + REPEAT);
                    }
                    continue;
                }
            },
            () = at(kill_at) => match worker.said_already() {
                // It has reacted; we were kept from listening.
                Some(frame) => worker::Event::Said(frame),
                None => {
                    let why = interruption.map(|i| i.why).unwrap_or_default();
                    client.control(INTERRUPTED);
                    return client.over(TIMED_OUT, &format!("{why}; it did not react and was killed, its state is lost"), Ended::Lost).await;
                }
            },
            () = client.deliver(), if client.is_behind() => continue,
            event = worker.next(), if !client.is_behind() => event,
        };
        match event {
            worker::Event::Output(stream, bytes) => client.output(stream, &bytes),
            worker::Event::Said(frame) if frame.execution != execution => {}
            worker::Event::Said(Frame { kind: Kind::Ready, .. }) => {}
            worker::Event::Said(Frame { kind: Kind::Interrupted, .. }) => {
                if let Some(interruption) = &mut interruption {
                    interruption.repeat_at = None;
                }
            }
            worker::Event::Said(Frame { kind: Kind::Error, payload, .. }) => {
                raised = serde_json::from_slice::<Raised>(&payload).ok();
            }
            worker::Event::Said(Frame { kind: Kind::Done, payload, .. }) => {
                client.rest_of(worker);
                if let Some(Raised { name, value, traceback }) = raised {
                    client.send(ExecutionMessage::error(name, value, traceback));
                }
                if payload == INTERRUPTED.as_bytes() {
                    client.control(INTERRUPTED);
                    let why =
                        interruption.map_or_else(|| "the execution was interrupted".to_owned(), |i| i.why);
                    return client.over(TIMED_OUT, &format!("{why}; its state is kept"), Ended::Usable).await;
                }
                client.control(COMPLETED);
                return client.over(ws::NORMAL, "", Ended::Usable).await;
            }
            worker::Event::Gone(how) => {
                client.rest_of(worker);
                return client.lost(&how).await;
            }
        }
    }
}

/// Interrupts the code, unless that was done already.
fn interrupt(worker: &Worker, interruption: &mut Option<Interruption>, why: impl FnOnce() -> String) {
    if interruption.is_none() {
        worker.interrupt();
        let now = Instant::now();
        *interruption =
            Some(Interruption { why: why(), repeat_at: Some(now + REPEAT), kill_at: now + INSIST });
    }
}

/// Interrupts the worker's children and then itself, unless it has said something meanwhile: code that has been reached is not interrupted twice.
async fn repeat(worker: &mut Worker) -> Option<Frame> {
    let said = worker.said_already();
    if said.is_some() {
        return said;
    }
    worker.interrupt_children().await;
    let said = worker.said_already();
    if said.is_none() {
        worker.interrupt();
    }
    said
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// The way to the client: what it has not been given yet, and the characters it was given half of.
struct Client<'a> {
    events: &'a Sender<Event>,
    waiting: VecDeque<Event>,
    stdout: Decoder,
    stderr: Decoder,
}

impl<'a> Client<'a> {
    fn new(events: &'a Sender<Event>) -> Self {
        Self { events, waiting: VecDeque::new(), stdout: Decoder::default(), stderr: Decoder::default() }
    }

    fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands one event over. Cancel-safe.
    async fn deliver(&mut self) {
        match self.events.reserve().await {
            Ok(room) => {
                if let Some(event) = self.waiting.pop_front() {
                    room.send(event);
                }
            }
            // Nobody is there any more; the execution goes on.
            Err(_) => self.waiting.clear(),
        }
    }

    fn send(&mut self, message: ExecutionMessage) {
        if !self.events.is_closed() {
            self.waiting.push_back(Event::Message(message));
        }
    }

    fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let (decoder, kind) = match stream {
            Stream::Stdout => (&mut self.stdout, MessageKind::Stdout),
            Stream::Stderr => (&mut self.stderr, MessageKind::Stderr),
        };
        let text = decoder.decode(bytes);
        if !text.is_empty() {
            self.send(ExecutionMessage::text(kind, text));
        }
    }

    /// Everything that was written before the end.
    fn rest_of(&mut self, worker: &mut Worker) {
        for (stream, bytes) in worker.drain() {
            self.output(stream, &bytes);
        }
        for (text, kind) in
            [(self.stdout.flush(), MessageKind::Stdout), (self.stderr.flush(), MessageKind::Stderr)]
        {
            if !text.is_empty() {
                self.send(ExecutionMessage::text(kind, text));
            }
        }
    }

    fn control(&mut self, word: &str) {
        self.send(ExecutionMessage::text(MessageKind::Control, word));
    }

    async fn lost(&mut self, how: &str) -> Ended {
        let what = format!("the interpreter has ended: {how}");
        self.send(ExecutionMessage::error("InterpreterError", &what, format!("InterpreterError: {what}")));
        self.over(ws::GOING_AWAY, &what, Ended::Lost).await
    }

    /// Hands everything over, and the close.
    async fn over(&mut self, code: u16, reason: &str, ended: Ended) -> Ended {
        self.waiting.push_back(Event::Over(ws::close_frame(code, reason)));
        while self.is_behind() {
            self.deliver().await;
        }
        ended
    }
}
