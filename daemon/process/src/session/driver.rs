//! The task that owns a session's shell: it runs the commands one after another and ends with the shell.
//!
//! A command is over when the shell has reported its status, or is dead, *and* the pipes hold nothing more that was written before. Whatever the pipes
//! held at that moment is at most their capacity, so a background process that keeps writing cannot hold up the end. Its later output goes on into
//! the log by a task of its own.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pinfold_proto::markers::Stream;
use pinfold_spawn::oom::Kills;
use pinfold_spawn::tree::{self, Mark, Scope};
use pinfold_spawn::{AnySignal, Exit, Process};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::command::{Cause, Input, Job};
use super::log::LogWriter;
use super::shell::{Shell, Streams};
use crate::pipe::{CAPACITY, Reader, Writer, read_some};

/// Input that a command has not read yet is held up to this size; then whoever sends it waits.
const MAX_PENDING: usize = 1 << 20;

/// A command that ran into its time limit is struck again after this time, until its shell says that it is over ([`crate::Settings::strikes`]).
const STRIKE: Duration = Duration::from_millis(100);
/// What a shell reports of a child that was killed.
const KILLED: i32 = 137;

/// How the session's shell ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) complaint: Option<String>,
}

/// Runs until the shell has ended and every submitted command has its end too.
pub(crate) async fn drive(
    mut shell: Shell,
    mut jobs: mpsc::Receiver<Job>,
    ended: watch::Sender<Option<Ended>>,
    mark: Mark,
    oom_kills: Kills,
    most_strikes: u32,
) {
    let process = Arc::clone(&shell.process);
    loop {
        tokio::select! {
            biased;
            _ = process.wait() => break,
            job = jobs.recv() => match job {
                Some(job) => run(&mut shell, job, &mark, &oom_kills, most_strikes).await,
                // The session is forgotten; its shell has been told to end.
                None => break,
            },
        }
    }
    let exit = process.wait().await;
    ended.send_replace(Some(Ended { exit, complaint: shell.complaint() }));
    jobs.close();
    while let Some(mut job) = jobs.recv().await {
        job.writer.append(Stream::Stderr, b"the session ended before this command could run\n");
        job.writer.over();
        job.command.end(exit.shell_code().max(1), Cause::Own);
    }
}

async fn run(shell: &mut Shell, job: Job, mark: &Mark, oom_kills: &Kills, most_strikes: u32) {
    let Job { command, mut writer, input, echo, limit } = job;
    let oom_before = oom_kills.count();
    let since = tree::now();
    command.begin(since);
    let process = Arc::clone(&shell.process);
    let fed = tokio::select! {
        fed = shell.feed(&command.text, input.is_some()) => fed,
        exit = process.wait() => Err(std::io::Error::other(format!("the shell has ended ({exit:?})"))),
    };
    let (Streams { out, err, stdin }, ends) = match fed {
        Ok(fed) => fed,
        Err(error) => {
            let text = format!("the command could not be handed to the shell: {error}\n");
            writer.append(Stream::Stderr, text.as_bytes());
            writer.over();
            return command.end(process.exited().map_or(-1, Exit::shell_code), Cause::Own);
        }
    };
    let mut stdin = Stdin { pipe: stdin, input, pending: Vec::new(), close: false };
    let (mut out_buffer, mut err_buffer) = (vec![0; CAPACITY], vec![0; CAPACITY]);
    let mut strike = limit.map(|limit| Instant::now() + limit);
    let mut strikes = 0;
    let code = loop {
        let step = tokio::select! {
            biased;
            status = shell.status() => match status {
                Ok(status) => break status,
                Err(error) => {
                    tracing::error!(%error, "a session's status pipe failed");
                    break -1;
                }
            },
            exit = process.wait() => break exit.shell_code(),
            () = at(strike) => {
                strikes += 1;
                kill_command(&process, mark, since, strikes < most_strikes).await;
                // After this one, and not by the clock: if we were kept from striking, the shell was kept from telling.
                strike = Some(Instant::now() + STRIKE);
                continue;
            }
            step = step(&out, &mut out_buffer, &err, &mut err_buffer, &mut stdin) => step,
        };
        match step {
            Step::Out(read) => writer.append(Stream::Stdout, &out_buffer[..read]),
            Step::Err(read) => writer.append(Stream::Stderr, &err_buffer[..read]),
            Step::Input(input) => stdin.take(input, &mut writer, echo),
            Step::Written => {}
        }
    };
    rest(&out, Stream::Stdout, &mut writer, &mut out_buffer);
    rest(&err, Stream::Stderr, &mut writer, &mut err_buffer);
    // From here on only what the command left behind holds the writing ends.
    drop(ends);
    writer.over();
    let cause = match strikes {
        0 if code == KILLED && oom_kills.since(oom_before) => Cause::Oom,
        0 => Cause::Own,
        _ => Cause::Timeout,
    };
    command.end(code, cause);
    let (out, err) = (held(out), held(err));
    if out.is_some() || err.is_some() {
        tokio::spawn(linger(out, err, writer));
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Kills what a command has started since it began. A shell that goes on with the command nevertheless has to go itself: it is not spared for ever.
async fn kill_command(process: &Arc<Process>, mark: &Mark, since: u64, spare_shell: bool) {
    let (process, mark) = (Arc::clone(process), mark.clone());
    let kill = move || {
        if spare_shell {
            signal_started(&process, &mark, since, Signal::SIGKILL.into());
        } else {
            drop(process.kill_family(&mark, Scope::Everything));
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(kill).await {
        tracing::error!(%error, "a session's command that timed out could not be killed");
    }
}

/// Signals what a running command has started, and not what earlier commands left in the background. The shell itself is spared.
pub(super) fn signal_started(process: &Process, mark: &Mark, since: u64, signal: AnySignal) -> usize {
    let family = process.family(mark);
    let own = family.iter().filter(|process| process.started >= since);
    own.filter(|process| signal.send(Pid::from_raw(process.pid)).is_ok()).count()
}

enum Step {
    Out(usize),
    Err(usize),
    Input(Input),
    Written,
}

/// The next thing that happens while a command runs. Cancel-safe.
async fn step(
    out: &Reader,
    out_buffer: &mut [u8],
    err: &Reader,
    err_buffer: &mut [u8],
    stdin: &mut Stdin,
) -> Step {
    tokio::select! {
        read = out.read(out_buffer) => Step::Out(read.unwrap_or(0)),
        read = err.read(err_buffer) => Step::Err(read.unwrap_or(0)),
        step = stdin.step() => step,
    }
}

/// Everything that is in the pipe now.
fn rest(reader: &Reader, stream: Stream, writer: &mut LogWriter, buffer: &mut [u8]) {
    let mut left = CAPACITY;
    while left > 0 {
        match reader.now(buffer) {
            Ok(Some(read)) if read > 0 => {
                writer.append(stream, &buffer[..read]);
                left = left.saturating_sub(read);
            }
            _ => return,
        }
    }
}

/// The reader, if somebody can still write to it.
fn held(reader: Reader) -> Option<Reader> {
    match reader.is_over() {
        true => None,
        false => Some(reader),
    }
}

/// Appends what background processes write after the end of their command.
async fn linger(mut out: Option<Reader>, mut err: Option<Reader>, mut writer: LogWriter) {
    let (mut out_buffer, mut err_buffer) = (vec![0; 4096], vec![0; 4096]);
    while out.is_some() || err.is_some() {
        let (stream, read) = tokio::select! {
            read = read_some(out.as_ref(), &mut out_buffer) => (Stream::Stdout, read),
            read = read_some(err.as_ref(), &mut err_buffer) => (Stream::Stderr, read),
        };
        match (stream, read) {
            (Stream::Stdout, 0) => out = None,
            (Stream::Stderr, 0) => err = None,
            (Stream::Stdout, n) => writer.append(stream, &out_buffer[..n]),
            (Stream::Stderr, n) => writer.append(stream, &err_buffer[..n]),
        }
    }
}

/// A command's standard input.
struct Stdin {
    pipe: Option<Writer>,
    input: Option<mpsc::Receiver<Input>>,
    pending: Vec<u8>,
    close: bool,
}

impl Stdin {
    /// The next input, or some progress with what is pending. Cancel-safe.
    async fn step(&mut self) -> Step {
        let room = self.pending.len() < MAX_PENDING;
        loop {
            let written = tokio::select! {
                input = receive(self.input.as_mut()), if room => match input {
                    Some(input) => return Step::Input(input),
                    None => {
                        self.input = None;
                        continue;
                    }
                },
                written = write(self.pipe.as_ref(), &self.pending) => written,
            };
            match written {
                Ok(written) => drop(self.pending.drain(..written)),
                // Nobody reads any more.
                Err(_) => self.close_now(),
            }
            if self.close && self.pending.is_empty() {
                self.close_now();
            }
            return Step::Written;
        }
    }

    fn take(&mut self, input: Input, writer: &mut LogWriter, echo: bool) {
        if self.pipe.is_none() || self.close {
            // Dropping the answer tells the sender that there is no input any more.
            return;
        }
        if echo {
            writer.append(Stream::Stdout, &input.data);
        }
        self.pending.extend_from_slice(&input.data);
        self.close |= input.eof;
        if self.close && self.pending.is_empty() {
            self.close_now();
        }
        let _ = input.taken.send(());
    }

    fn close_now(&mut self) {
        self.pipe = None;
        self.pending.clear();
    }
}

async fn receive(input: Option<&mut mpsc::Receiver<Input>>) -> Option<Input> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn write(pipe: Option<&Writer>, pending: &[u8]) -> std::io::Result<usize> {
    match pipe {
        Some(pipe) if !pending.is_empty() => pipe.write(pending).await,
        _ => std::future::pending().await,
    }
}
