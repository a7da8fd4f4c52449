//! One Python process: its start, what it says and writes, its signals, its end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use pinfold_proto::markers::Stream;
use pinfold_spawn::oom::Kills;
use pinfold_spawn::tree::{self, Mark, Scope};
use pinfold_spawn::{Exit, Process, Sandbox, SpawnError, is_no_room};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use uuid::Uuid;

use super::channel::{Channel, Frame, Kind};
use crate::python::{BOOT, WORKER};

/// Python has this long to be ready.
const START: Duration = Duration::from_secs(30);
/// A worker that is told to go has this long.
const LEAVE: Duration = Duration::from_secs(2);
/// The most that is read from a pipe at once, and the most that a pipe holds.
const PIECE: usize = 16 << 10;
const PIPE: usize = 64 << 10;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The start directory is missing.
    #[error("the directory {0:?} does not exist")]
    Directory(String),
    /// Neither `python3` nor `python`.
    #[error("python is not installed: {0}")]
    Missing(SpawnError),
    /// Python could not be started.
    #[error(transparent)]
    Spawn(SpawnError),
    /// Its socket could not be made or written to.
    #[error("could not talk to python: {0}")]
    Channel(#[from] io::Error),
    /// It ended instead of becoming ready.
    #[error("python ended during its start ({0})")]
    Ended(String),
    /// It was not ready in time.
    #[error("python was not ready within {} s", START.as_secs())]
    Slow,
}

impl StartError {
    /// Whether the sandbox had no room for another process: it may be tried again.
    pub(super) fn is_no_room(&self) -> bool {
        match self {
            Self::Missing(error) | Self::Spawn(error) => matches!(error, SpawnError::NoRoom { .. }),
            Self::Channel(error) => is_no_room(error),
            Self::Directory(_) | Self::Ended(_) | Self::Slow => false,
        }
    }
}

/// What a worker does.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody wrote to its standard output or error.
    Output(Stream, Bytes),
    /// It said something.
    Said(Frame),
    /// It has ended, or can no longer be talked to.
    Gone(String),
}

/// A running Python process.
#[derive(Debug)]
pub(super) struct Worker {
    process: Arc<Process>,
    /// By which its children are known after its end.
    mark: Mark,
    channel: Channel,
    /// The kernel's count of its victims, and what it was when the worker started.
    oom: (Kills, u64),
    /// `None` once every writer has closed it.
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Worker {
    /// Starts Python and waits until it is ready.
    pub(super) async fn start(sandbox: &Sandbox, directory: &Path) -> Result<Self, StartError> {
        sandbox.spawner.look(directory).await.map_err(StartError::Spawn)?;
        if !tokio::fs::metadata(directory).await.is_ok_and(|m| m.is_dir()) {
            return Err(StartError::Directory(directory.display().to_string()));
        }
        let mut worker = match Self::spawn(sandbox, directory, "python3") {
            Err(StartError::Spawn(error)) if is_missing(&error) => {
                Self::spawn(sandbox, directory, "python").map_err(|_| StartError::Missing(error))?
            }
            other => other?,
        };
        worker.channel.send_program(WORKER.as_bytes()).await?;
        let mut said = Vec::new();
        let ready = async {
            loop {
                match worker.next().await {
                    Event::Said(Frame { kind: Kind::Ready, .. }) => return Ok(()),
                    Event::Said(_) => {}
                    Event::Output(_, bytes) if said.len() < PIPE => said.extend_from_slice(&bytes),
                    Event::Output(..) => {}
                    Event::Gone(how) => return Err(how),
                }
            }
        };
        match timeout(START, ready).await {
            Ok(Ok(())) => Ok(worker),
            Ok(Err(how)) => {
                let said = String::from_utf8_lossy(&said);
                let last = said.lines().last().unwrap_or_default();
                Err(StartError::Ended(format!("{how}; {last}").trim_end_matches("; ").to_owned()))
            }
            Err(_) => {
                worker.kill().await;
                Err(StartError::Slow)
            }
        }
    }

    fn spawn(sandbox: &Sandbox, directory: &Path, python: &str) -> Result<Self, StartError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(python);
        command.args(["-u", "-c", BOOT]).current_dir(directory).process_group(0);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
        sandbox.environment.apply(&mut command, []);
        let mark = Mark::new(Uuid::new_v4().to_string());
        mark.apply(&mut command);
        let kills = sandbox.spawner.oom_kills();
        let oom = (kills.clone(), kills.count());
        let mut process = sandbox.spawner.spawn(command).map_err(StartError::Spawn)?;
        let stdout = process.stdout.take().map(pipe::Receiver::from_owned_fd).transpose()?;
        let stderr = process.stderr.take().map(pipe::Receiver::from_owned_fd).transpose()?;
        let channel = Channel::new(UnixStream::from_std(ours)?);
        Ok(Self { process: Arc::new(process), mark, channel, oom, stdout, stderr })
    }

    /// Orders an execution.
    pub(super) async fn run(&mut self, execution: u64, request: &[u8]) -> io::Result<()> {
        self.channel.send_run(execution, request).await
    }

    /// Waits for what happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Event {
        let Self { process, channel, oom, stdout, stderr, .. } = self;
        tokio::select! {
            // Output before the end.
            biased;
            bytes = piece(stdout) => Event::Output(Stream::Stdout, bytes),
            bytes = piece(stderr) => Event::Output(Stream::Stderr, bytes),
            said = channel.next() => match said {
                Ok(Some(frame)) => Event::Said(frame),
                Ok(None) => Event::Gone(match timeout(LEAVE, process.wait()).await {
                    Ok(exit) => describe(exit, oom),
                    Err(_) => "its channel was closed".to_owned(),
                }),
                Err(error) => Event::Gone(error.to_string()),
            },
            exit = process.wait() => Event::Gone(describe(exit, oom)),
        }
    }

    /// What it has said and nobody has heard yet.
    pub(super) fn said_already(&mut self) -> Option<Frame> {
        self.channel.now()
    }

    /// What is in the pipes now: all that was written before the worker's last word.
    pub(super) fn drain(&mut self) -> Vec<(Stream, Bytes)> {
        let mut drained = Vec::new();
        for (stream, pipe) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            let mut total = 0;
            // Somebody in the background may write for ever; what was written before fits the pipe.
            while total < PIPE {
                match pipe.as_ref().map(piece_now) {
                    Some(Ok(bytes)) if !bytes.is_empty() => {
                        total += bytes.len();
                        drained.push((stream, bytes));
                    }
                    _ => break,
                }
            }
        }
        drained
    }

    /// Raises KeyboardInterrupt in the worker.
    pub(super) fn interrupt(&self) {
        let _ = self.process.signal(Signal::SIGINT);
    }

    /// Interrupts what the worker waits for, if it waits for children as `os.system` does: deaf to signals.
    pub(super) async fn interrupt_children(&self) {
        let process = Arc::clone(&self.process);
        let interrupt = move || {
            if process.exited().is_none() {
                for pid in tree::descendants(process.pid()) {
                    let _ = kill(pid, Signal::SIGINT);
                }
            }
        };
        // Reading the process table is file I/O.
        let _ = tokio::task::spawn_blocking(interrupt).await;
    }

    /// Ends the worker and its children at once. Those of a worker that has ended by itself are left alone.
    pub(super) async fn kill(self) {
        let process = Arc::clone(&self.process);
        let _ = tokio::task::spawn_blocking(move || process.kill_tree()).await;
        self.process.wait().await;
    }

    /// Ends the worker: SIGTERM first; its children go with it.
    pub(super) async fn stop(self) {
        let _ = self.process.signal(Signal::SIGTERM);
        let _ = timeout(LEAVE, self.process.wait()).await;
        let Self { process, mark, .. } = self;
        let _ = tokio::task::spawn_blocking(move || process.kill_family(&mark, Scope::Everything)).await;
    }
}

fn is_missing(error: &SpawnError) -> bool {
    matches!(error, SpawnError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn describe(exit: Exit, (kills, before): &(Kills, u64)) -> String {
    match (exit, exit.signal_name()) {
        (Exit::Code(code), _) => format!("it exited with code {code}"),
        (Exit::Signal(9), _) if kills.since(*before) => {
            "it was killed by SIGKILL: the sandbox ran out of memory".to_owned()
        }
        (Exit::Signal(_), Some(name)) => format!("it was killed by {name}"),
        (Exit::Signal(number), None) => format!("it was killed by signal {number}"),
    }
}

/// The next piece; never, once the pipe is at its end.
async fn piece(pipe: &mut Option<pipe::Receiver>) -> Bytes {
    while let Some(receiver) = pipe {
        let bytes = match receiver.readable().await.and_then(|()| try_piece(receiver)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => Bytes::new(),
        };
        if !bytes.is_empty() {
            return bytes;
        }
        *pipe = None;
    }
    std::future::pending().await
}

fn try_piece(receiver: &pipe::Receiver) -> io::Result<Bytes> {
    let mut buffer = [0; PIECE];
    receiver.try_read(&mut buffer).map(|count| Bytes::copy_from_slice(&buffer[..count]))
}

/// Asks the kernel, not the runtime, which may not have heard yet of what is there.
fn piece_now(receiver: &pipe::Receiver) -> nix::Result<Bytes> {
    let mut buffer = [0; PIECE];
    nix::unistd::read(receiver, &mut buffer).map(|count| Bytes::copy_from_slice(&buffer[..count]))
}
