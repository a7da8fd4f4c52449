//! The servers while they run, and their end.

use std::io;
use std::time::Duration;

use axum::Router;
use pinfold_http::serve;
use pinfold_process::Processes;
use pinfold_spawn::Sandbox;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::listen::Listeners;
use crate::{desktop, info, init, port, routes};

/// How long open requests may take once the daemon is told to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Everything that runs once the ports are bound.
#[derive(Debug)]
pub struct Servers {
    toolbox: Router,
}

impl Servers {
    /// Puts the routes together.
    pub fn new(config: &Config, sandbox: &Sandbox) -> Self {
        let processes = Processes::new(sandbox.clone(), config.processes());
        let (token, _) = watch::channel(None);
        let toolbox = Router::new()
            .merge(info::router(sandbox.clone()))
            .merge(init::router(token))
            .merge(port::router())
            .merge(processes.router())
            .merge(desktop::router());
        Self { toolbox: routes::finish(toolbox) }
    }

    /// Serves until SIGINT or SIGTERM, then ends everything within nine seconds.
    pub async fn run(self, listeners: Listeners) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            tracing::info!(signal = name, "ending");
        };
        if let Err(error) = serve(listeners.toolbox, self.toolbox, stop, DRAIN).await {
            tracing::warn!(%error, "not every request was finished");
        }
        Ok(())
    }
}
