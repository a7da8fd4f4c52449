//! The command line (toolbox contract 1.2), and `entrypoint logs`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use pinfold_proto::markers::{Splitter, Stream};

/// What the daemon is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Serve, and run this command first if it is not empty.
    Serve(Vec<String>),
    /// Print the entrypoint's log.
    EntrypointLogs,
}

impl Invocation {
    /// Reads the arguments that follow the program's name.
    pub fn of(arguments: impl Iterator<Item = std::ffi::OsString>) -> Self {
        let arguments: Vec<String> = arguments.map(|a| a.to_string_lossy().into_owned()).collect();
        match arguments.as_slice() {
            [first, second] if first == "entrypoint" && second == "logs" => Self::EntrypointLogs,
            _ => Self::Serve(arguments),
        }
    }
}

/// Prints the log at `path` to standard output and standard error, and goes on as it grows; ends only on an error.
pub fn print_log(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    // Watching first: what is written between reading and waiting wakes us.
    let changes = Inotify::init(InitFlags::IN_CLOEXEC)?;
    changes.add_watch(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF)?;
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut buffer)?;
        let mut result = Ok(());
        splitter.feed(&buffer[..length], |stream, bytes| {
            let written = match stream {
                Some(Stream::Stdout) => out.write_all(bytes),
                Some(Stream::Stderr) => err.write_all(bytes),
                None => Ok(()),
            };
            if result.is_ok() {
                result = written;
            }
        });
        result?;
        if length == 0 {
            out.flush()?;
            let events = changes.read_events()?;
            if events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_DELETE_SELF)) {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the log was removed"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_two_words_ask_for_the_log() {
        let of = |words: &[&str]| Invocation::of(words.iter().map(|w| (*w).into()));
        assert_eq!(of(&["entrypoint", "logs"]), Invocation::EntrypointLogs);
        assert_eq!(of(&[]), Invocation::Serve(vec![]));
        let three = ["entrypoint", "logs", "x"];
        assert_eq!(of(&three), Invocation::Serve(three.map(str::to_owned).to_vec()));
    }
}
