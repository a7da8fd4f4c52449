//! Screen recordings (toolbox contract 17): the API on the toolbox's port, and the dashboard on a port of its own.

mod dashboard;
mod files;
mod routes;
mod store;

use std::os::fd::AsFd;

use pinfold_spawn::Process;

pub(crate) use dashboard::router as dashboard;
pub(crate) use routes::router;
pub(crate) use store::{RecordingError, Recordings};

/// Asks ffmpeg to finish the file.
fn pipe_quit(process: &Process) {
    if let Some(stdin) = &process.stdin {
        let _ = nix::unistd::write(stdin.as_fd(), b"q");
    }
}
