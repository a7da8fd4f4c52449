//! A command of a session: what is known of it from submission to end.

use std::sync::Arc;
use std::time::Duration;

use pinfold_proto::toolbox::process as wire;
use tokio::sync::{mpsc, oneshot, watch};

use super::log::{Log, LogWriter};

/// Pieces of input that may wait for a command.
const INPUT_QUEUE: usize = 16;

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Behind another one.
    Waiting,
    /// In the shell. The time is in clock ticks since boot: processes of the command are no older.
    Running {
        /// When it began.
        since: u64,
    },
    /// Over; its log is complete.
    Ended {
        /// What the shell said of it.
        code: i32,
        /// What brought it about.
        cause: Cause,
    },
}

/// What ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nothing that is known.
    Own,
    /// It was killed, and the kernel killed something in this sandbox for want of memory meanwhile.
    Oom,
    /// Its time limit.
    Timeout,
}

/// Something to do to a command's standard input.
#[derive(Debug)]
pub(crate) struct Input {
    /// Bytes to write.
    pub(crate) data: Vec<u8>,
    /// Whether to close it then.
    pub(crate) eof: bool,
    /// Answered once the echo, if any, is in the log.
    pub(crate) taken: oneshot::Sender<()>,
}

/// A command as everybody sees it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) log: Arc<Log>,
    /// Absent if the command has no input: a synchronous one.
    pub(crate) input: Option<mpsc::Sender<Input>>,
    state: watch::Sender<State>,
}

/// A command as its session's driver gets it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) command: Arc<Command>,
    pub(crate) writer: LogWriter,
    pub(crate) input: Option<mpsc::Receiver<Input>>,
    pub(crate) echo: bool,
    /// How long it may run.
    pub(crate) limit: Option<Duration>,
}

/// How a command is to be run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// With an input that stays open.
    pub(crate) with_input: bool,
    /// With that input in the log.
    pub(crate) echo: bool,
    /// No longer than this.
    pub(crate) limit: Option<Duration>,
}

impl Job {
    /// A new command that waits.
    pub(crate) fn new(
        id: String,
        text: String,
        (log, writer): (Arc<Log>, LogWriter),
        manner: Manner,
    ) -> Self {
        let Manner { with_input, echo, limit } = manner;
        let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
        let (input, receiver) = if with_input { (Some(sender), Some(receiver)) } else { (None, None) };
        let (state, _) = watch::channel(State::Waiting);
        let command = Arc::new(Command { id, text, log, input, state });
        Self { command, writer, input: receiver, echo, limit }
    }
}

impl Command {
    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn begin(&self, since: u64) {
        self.state.send_replace(State::Running { since });
    }

    /// The log must be complete by now: an exit code is never seen before the last byte of output.
    pub(crate) fn end(&self, code: i32, cause: Cause) {
        self.log.note_exit(code);
        self.state.send_replace(State::Ended { code, cause });
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> i32 {
        let mut state = self.state.subscribe();
        loop {
            if let State::Ended { code, .. } = *state.borrow_and_update() {
                return code;
            }
            if state.changed().await.is_err() {
                return -1;
            }
        }
    }

    pub(crate) fn wire(&self) -> wire::Command {
        let (exit_code, cause) = match self.state() {
            State::Ended { code, cause } => (Some(code), cause),
            State::Waiting | State::Running { .. } => (None, Cause::Own),
        };
        wire::Command {
            id: self.id.clone(),
            command: self.text.clone(),
            exit_code,
            timed_out: cause == Cause::Timeout,
            oom_killed: cause == Cause::Oom,
        }
    }
}
