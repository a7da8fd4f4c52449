//! How a command line becomes a process: which shell, how it gets the text, what its working directory is.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pinfold_http::ApiError;
use pinfold_spawn::{Sandbox, SpawnError, is_no_room};

use crate::spool::in_memory;

/// One argument may hold 128 KiB (`MAX_ARG_STRLEN`); longer texts go through a file.
const MAX_ARGUMENT: usize = 100 << 10;

/// The sandbox's shell as a path, so that starting it needs no search.
pub(crate) fn shell(sandbox: &Sandbox) -> PathBuf {
    let shell = sandbox.shell();
    if shell == Path::new("sh") && Path::new("/bin/sh").exists() { PathBuf::from("/bin/sh") } else { shell }
}

/// `<shell> -c <text>`, or `<shell> <file>` for a long text, in a process group of its own, with an empty standard input. The file has to stay open
/// until the shell has read it.
pub(crate) fn script(shell: &Path, text: &str) -> std::io::Result<(Command, Option<File>)> {
    let mut command = Command::new(shell);
    command.process_group(0).stdin(Stdio::null());
    if text.len() <= MAX_ARGUMENT {
        command.arg("-c");
        if text.starts_with(['-', '+']) {
            command.arg("--");
        }
        command.arg(text);
        return Ok((command, None));
    }
    let mut file = in_memory("command")?;
    file.write_all(text.as_bytes())?;
    command.arg(own_fd(file.as_raw_fd()));
    Ok((command, Some(file)))
}

/// The path by which a child opens one of this process's descriptors anew.
pub(crate) fn own_fd(number: i32) -> String {
    format!("/proc/{}/fd/{number}", std::process::id())
}

/// 503 if the system has no room for another process or descriptor now: the caller may come again, and the command has not run.
pub(crate) fn exhausted(error: &std::io::Error) -> Option<ApiError> {
    is_no_room(error)
        .then(|| ApiError::exhausted(format_args!("the sandbox has no room for another process: {error}")))
}

/// The same of a process that could not be started.
pub(crate) fn no_room(error: &SpawnError) -> Option<ApiError> {
    match error {
        SpawnError::NoRoom { .. } => Some(ApiError::exhausted(error)),
        SpawnError::Start { .. } | SpawnError::Hangs { .. } | SpawnError::Watch(_) => None,
    }
}

/// What to tell about a process that did not start. The system only says "no such file": whether it meant the directory is found out here.
pub(crate) fn explain(error: &SpawnError, directory: &Path) -> String {
    if let SpawnError::Hangs { .. } = error {
        return format!("the command could not start: {error}");
    }
    match std::fs::metadata(directory) {
        Err(cause) => {
            format!("the command could not start: working directory {}: {cause}", directory.display())
        }
        Ok(found) if !found.is_dir() => {
            format!("the command could not start: {} is not a directory", directory.display())
        }
        Ok(_) => format!("the command could not start: {error}"),
    }
}
