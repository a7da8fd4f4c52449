//! A session's shell and the lines it is fed.
//!
//! The shell reads its script from a pipe that it opens by path, so its standard input is free and no start-up file can eat the script. Each command is a
//! memory file that the shell sources with its standard streams redirected, again by path: nothing is inherited and nothing lies on a disk. The lines after
//! it report the status. Everything is quoted against aliases, functions, `IFS`, `noclobber` and `xtrace`; only a function that is called as what calls
//! builtins is removed, or no status would ever come.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use pinfold_http::ApiError;
use pinfold_spawn::tree::Mark;
use pinfold_spawn::{Process, Sandbox};

use crate::launch::{exhausted, explain, no_room, own_fd};
use crate::pipe::{CAPACITY, Reader, Writer, non_blocking, pipe};
use crate::spool::in_memory;

/// A running shell and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) process: Arc<Process>,
    script: Writer,
    statuses: Reader,
    unread: Vec<u8>,
    /// What the shell itself says, apart from its commands: the reason if it cannot start.
    complaints: Reader,
    words: Words,
    /// Our copies of the ends that the shell opens by path.
    _script_end: OwnedFd,
    status_end: OwnedFd,
    commands: u64,
}

/// How a shell is spoken to whatever the user has defined.
#[derive(Debug, Clone, Copy)]
struct Words {
    /// What a builtin is called by.
    builtin: &'static str,
    /// Removes the function of that name, if there is one. A function may also be called `unset`, but not where POSIX forbids it.
    guard: &'static str,
}

impl Words {
    fn of(shell: &Path) -> Self {
        let name = shell.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("zsh") {
            // Its `unset` complains of what is not there, and a complaint ends a shell with `set -e`.
            let guard = r#"[[ -n "${functions[builtin]-}" ]] && \unset -f builtin"#;
            Self { builtin: r"\builtin", guard }
        } else if name.starts_with("bash") {
            Self { builtin: r"\command", guard: r"\builtin unset -f command" }
        } else {
            Self { builtin: r"\command", guard: r"\unset -f command" }
        }
    }
}

/// The shell's ends of one command's pipes, kept open until the shell has opened its own.
#[derive(Debug)]
pub(crate) struct Ends {
    _file: File,
    _out: OwnedFd,
    _err: OwnedFd,
    _stdin: Option<OwnedFd>,
}

/// Our ends of one command's pipes.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) out: Reader,
    pub(crate) err: Reader,
    pub(crate) stdin: Option<Writer>,
}

impl Shell {
    /// Starts `program` in `directory`.
    pub(crate) fn start(
        sandbox: &Sandbox,
        program: &Path,
        directory: &Path,
        mark: &Mark,
    ) -> Result<Self, ApiError> {
        let failed = |error: io::Error| {
            let plain = || ApiError::internal(format_args!("the session's shell could not start: {error}"));
            exhausted(&error).unwrap_or_else(plain)
        };
        let (script_end, script) = pipe().map_err(failed)?;
        let (statuses, status_end) = pipe().map_err(failed)?;
        let (complaints, complain) = pipe().map_err(failed)?;
        // A shell that talks of itself (`set -x`) must not wait for a reader: what does not fit is lost.
        non_blocking(&complain).map_err(failed)?;
        let mut command = Command::new(program);
        command.arg(own_fd(script_end.as_raw_fd())).process_group(0).current_dir(directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(complain));
        sandbox.environment.apply(&mut command, []);
        mark.apply(&mut command);
        let process = sandbox.spawner.spawn(command).map_err(|error| {
            no_room(&error).unwrap_or_else(|| ApiError::internal(explain(&error, directory)))
        })?;
        Ok(Self {
            process: Arc::new(process),
            script: Writer::new(script).map_err(failed)?,
            statuses: Reader::new(statuses).map_err(failed)?,
            unread: Vec::new(),
            complaints: Reader::new(complaints).map_err(failed)?,
            words: Words::of(program),
            _script_end: script_end,
            status_end,
            commands: 0,
        })
    }

    /// Feeds the shell one command. It must have finished the one before.
    pub(crate) async fn feed(&mut self, text: &str, with_input: bool) -> io::Result<(Streams, Ends)> {
        let mut file = in_memory("command")?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let (stdin_end, stdin) = if with_input {
            let (end, stdin) = pipe()?;
            (Some(end), Some(Writer::new(stdin)?))
        } else {
            (None, None)
        };
        self.commands += 1;
        let Words { builtin, guard } = self.words;
        let input = stdin_end.as_ref().map_or_else(|| "/dev/null".to_owned(), |end| own_fd(end.as_raw_fd()));
        let line = format!(
            "{guard}\n{builtin} . {file} <{input} >|{out} 2>|{err}\nPINFOLD_STATUS=$?\n\
             {guard}\n{builtin} echo \"{number} $PINFOLD_STATUS\" >|{status}\n",
            file = own_fd(file.as_raw_fd()),
            out = own_fd(out_end.as_raw_fd()),
            err = own_fd(err_end.as_raw_fd()),
            number = self.commands,
            status = own_fd(self.status_end.as_raw_fd()),
        );
        let streams = Streams { out: Reader::new(out)?, err: Reader::new(err)?, stdin };
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let written = self.script.write(rest).await?;
            rest = &rest[written..];
        }
        Ok((streams, Ends { _file: file, _out: out_end, _err: err_end, _stdin: stdin_end }))
    }

    /// The status of the command fed last, once the shell has reported it. Cancel-safe.
    pub(crate) async fn status(&mut self) -> io::Result<i32> {
        let mut buffer = [0; 256];
        loop {
            while let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if let Some(status) = parse_status(&line, self.commands) {
                    return Ok(status);
                }
            }
            let length = self.statuses.read(&mut buffer).await?;
            // Anybody in the sandbox may write here; only our lines count, and never more than this.
            if self.unread.len() > buffer.len() {
                self.unread.clear();
            }
            self.unread.extend_from_slice(&buffer[..length]);
        }
    }

    /// The last thing the shell said of itself: the reason, if it did not start.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut buffer = vec![0; CAPACITY];
        let length = self.complaints.now(&mut buffer).ok()??;
        let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        text.lines().last().map(str::to_owned)
    }
}

/// `<number> <status>`.
fn parse_status(line: &[u8], number: u64) -> Option<i32> {
    let (first, second) = std::str::from_utf8(line).ok()?.trim().split_once(' ')?;
    (first.parse() == Ok(number)).then(|| second.parse().ok()).flatten()
}
