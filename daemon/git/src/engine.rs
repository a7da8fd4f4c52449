//! The process in which one operation runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::ExitCode;

use axum::middleware::from_fn_with_state;
use nix::sys::prctl;
use pinfold_http::{ErrorStyle, render_errors, serve_connection};
use pinfold_spawn::{Environment, Sandbox, Spawner};
use tokio::net::UnixStream;

use crate::operations;
use crate::repository::Context;

/// What the program is called when it is to be an engine. Not an argument: those may be an image's own command.
pub(crate) const NAME: &str = "pinfold-git";

/// Whether this process was started as an engine, by [`crate::router`].
pub fn is_engine() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Serves the one request that comes over standard input, which is a socket. Arguments: the sandbox's work directory and its home.
pub fn engine() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "git's process cannot serve");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // For people who look at processes.
    let _ = prctl::set_name(c"pinfold-git");
    let mut directories = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(work_dir), Some(home)) = (directories.next(), directories.next()) else {
        return Err(io::Error::other("the work directory and the home are not among the arguments"));
    };
    let socket = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let spawner = Spawner::start().map_err(io::Error::other)?;
        let environment = Environment::inherited(&[]);
        let sandbox = Sandbox { spawner, environment, work_dir: work_dir.into(), home: home.into() };
        let (context, mut idle) = Context::new(sandbox);
        let routes = operations::served(context).layer(from_fn_with_state(ErrorStyle::Daemon, render_errors));
        let daemon = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        serve_connection(UnixStream::from_std(socket)?, daemon, routes, std::future::pending()).await;
        // An operation whose client has left cleans up first.
        idle.recv().await;
        Ok(())
    })
}
