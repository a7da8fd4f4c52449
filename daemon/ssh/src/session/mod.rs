//! A session channel: what the client asks of it before and after something runs in it (toolbox contract 19.2).
//!
//! A [`Session`] is owned by its connection and only changes what it will start, or starts it; what runs has tasks of its own, which
//! hang it up when the client closes the channel or is lost.

mod environment;
pub(crate) mod exit;
mod modes;
mod pipes;
mod signal;
mod terminal;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use pinfold_pty::{PtyMaster, Size};
use pinfold_spawn::Process;

use crate::channel::Channel;
use crate::connection::Shared;
use crate::forward::Agent;
use crate::wire::{Reader, Truncated};
use environment::ClientEnvironment;
use modes::Modes;

/// Runs commands, and scripts that come down a session without a terminal (toolbox contract 19.2).
const COMMAND_SHELL: &str = "/bin/sh";

/// A session channel.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    channel: Channel,
    environment: ClientEnvironment,
    terminal: Option<TerminalRequest>,
    agent: Option<Agent>,
    state: State,
}

/// The terminal that the client wants to run something on.
#[derive(Debug)]
struct TerminalRequest {
    name: String,
    size: Size,
    modes: Modes,
}

#[derive(Debug)]
enum State {
    Preparing,
    /// Something started, or failed to.
    Started(Option<Running>),
}

#[derive(Debug)]
struct Running {
    process: Arc<Process>,
    terminal: Option<PtyMaster>,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, channel: Channel) -> Self {
        let environment = ClientEnvironment::default();
        Self { shared, channel, environment, terminal: None, agent: None, state: State::Preparing }
    }

    /// Handles a channel request; says whether it succeeded.
    pub(crate) fn request(&mut self, name: &str, mut extra: Reader) -> Result<bool, Truncated> {
        let preparing = matches!(self.state, State::Preparing);
        Ok(match name {
            "env" => preparing && self.environment.set(&extra.string()?, &extra.string()?),
            "pty-req" => {
                let request = TerminalRequest::parse(extra)?;
                preparing && self.terminal.is_none() && {
                    self.terminal = Some(request);
                    true
                }
            }
            "auth-agent-req@openssh.com" => preparing && self.forward_agent(),
            "shell" => preparing && self.shell(),
            "exec" => {
                let command = extra.string()?;
                preparing && self.execute(&command)
            }
            "subsystem" => {
                let subsystem = extra.text()?;
                preparing && subsystem == "sftp" && self.sftp()
            }
            "window-change" => {
                let size = parse_size(&mut extra)?;
                match &mut self.state {
                    State::Started(Some(Running { terminal: Some(terminal), .. })) => {
                        terminal.resize(size).is_ok()
                    }
                    _ => self.terminal.as_mut().map(|terminal| terminal.size = size).is_some(),
                }
            }
            "signal" => {
                let name = extra.text()?;
                match (&self.state, signal::by_name(&name)) {
                    (State::Started(Some(running)), Some(signal)) => {
                        running.process.signal_group(signal).is_ok()
                    }
                    _ => false,
                }
            }
            other => {
                tracing::debug!(request = other, "refused a channel request");
                false
            }
        })
    }

    fn forward_agent(&mut self) -> bool {
        if self.agent.is_none() {
            self.agent = Agent::listen(&self.shared)
                .inspect_err(|error| tracing::warn!(%error, "could not make a socket for the client's agent"))
                .ok();
        }
        self.agent.is_some()
    }

    fn sftp(&mut self) -> bool {
        self.state = State::Started(None);
        let (channel, served) = (self.channel.clone(), &self.shared.served);
        match Arc::clone(&served.sftp).try_acquire_owned() {
            Ok(place) => tokio::spawn(crate::sftp::serve(channel, served.sandbox.clone(), place)),
            // A bare refusal would not say why.
            Err(_) => {
                let full = format!("there are {} SFTP sessions already", served.config.max_sftp);
                tokio::spawn(exit::not_started(channel, full))
            }
        };
        true
    }

    /// With a terminal the sandbox's shell, without one a shell that reads commands from the channel.
    fn shell(&mut self) -> bool {
        let command = match &self.terminal {
            Some(_) => Command::new(self.shared.served.sandbox.shell()),
            None => Command::new(COMMAND_SHELL),
        };
        self.start(command)
    }

    fn execute(&mut self, line: &[u8]) -> bool {
        let mut command = Command::new(COMMAND_SHELL);
        command.arg("-c").arg(OsStr::from_bytes(line));
        self.start(command)
    }

    /// Starts `command`. That it could not is told on standard error, with the status that a shell would give, rather than by a bare refusal.
    fn start(&mut self, mut command: Command) -> bool {
        let sandbox = &self.shared.served.sandbox;
        command.current_dir(&sandbox.work_dir);
        self.environment.apply(
            &mut command,
            &self.shared,
            self.terminal.as_ref().map(|t| t.name.as_str()),
            self.agent.as_ref(),
        );
        let started = match &self.terminal {
            Some(request) => terminal::start(sandbox, command, request)
                .map(|(process, terminal)| (process, Some(terminal)))
                .map_err(|error| error.to_string()),
            None => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
                sandbox
                    .spawner
                    .spawn(command)
                    .map(|process| (process, None))
                    .map_err(|error| error.to_string())
            }
        };
        let channel = self.channel.clone();
        self.state = State::Started(match started {
            Ok((process, Some(terminal))) => {
                let process = Arc::new(process);
                tokio::spawn(terminal::serve(channel, Arc::clone(&process), terminal.clone()));
                Some(Running { process, terminal: Some(terminal) })
            }
            Ok((mut process, None)) => {
                let pipes = pipes::Pipes::take(&mut process);
                let process = Arc::new(process);
                tokio::spawn(pipes::serve(channel, Arc::clone(&process), pipes));
                Some(Running { process, terminal: None })
            }
            Err(error) => {
                tracing::debug!(error, "could not start a session's process");
                tokio::spawn(exit::not_started(channel, error));
                None
            }
        });
        true
    }
}

impl TerminalRequest {
    fn parse(mut extra: Reader) -> Result<Self, Truncated> {
        let name = extra.text()?;
        let size = parse_size(&mut extra)?;
        Ok(Self { name, size, modes: Modes::parse(extra.string().unwrap_or_else(|_| Bytes::new())) })
    }
}

/// Columns, rows, width and height in pixels (RFC 4254, section 6.2); a client that does not know says 0.
fn parse_size(extra: &mut Reader) -> Result<Size, Truncated> {
    let mut next = || extra.u32().map(|n| u16::try_from(n).unwrap_or(u16::MAX));
    let (cols, rows, width, height) = (next()?, next()?, next()?, next()?);
    let known = Size::default();
    Ok(Size {
        cols: if cols == 0 { known.cols } else { cols },
        rows: if rows == 0 { known.rows } else { rows },
        width,
        height,
    })
}
