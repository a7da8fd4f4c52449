//! The servers while they run, and their end.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use pinfold_http::{ApiError, serve};
use pinfold_process::Processes;
use pinfold_spawn::Sandbox;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::beat::Beat;
use crate::config::Config;
use crate::listen::Listeners;
use crate::metrics::{self, Meter};
use crate::recording::{self, Recordings};
use crate::telemetry::{Exporter, Records, Telemetry, trace};
use crate::{describe, desktop, info, init, port, preview, resident, routes};

/// How long open requests may take once the daemon is told to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the end may take altogether: engines kill after ten seconds.
const END: Duration = Duration::from_millis(8500);

/// How long the runtime keeps an idle thread for blocking work. One of them is never idle so long: in a fork storm, when no thread can be started any
/// more, whoever wants to end the storm still has one.
pub const SPARE_THREAD: Duration = Duration::from_secs(20);

/// What git's operations run in: this program again, whatever its file is called by now.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Everything that runs once the ports are bound.
#[derive(Debug)]
pub struct Servers {
    sandbox: Sandbox,
    processes: Processes,
    toolbox: Router,
    terminal: Router,
    dashboard: Router,
    meter: Meter,
    tokens: watch::Receiver<Option<String>>,
    exporter: Option<Exporter>,
    exit_with_entrypoint: bool,
    ssh: pinfold_ssh::Config,
}

/// Why the daemon ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Signals cannot be waited for.
    #[error("could not wait for signals: {0}")]
    Signals(#[from] io::Error),
    /// The SSH server failed.
    #[error("the SSH server ended: {0}")]
    Ssh(#[from] pinfold_ssh::ServeError),
}

impl Servers {
    /// Puts the routes together.
    pub fn new(config: &Config, sandbox: &Sandbox, telemetry: Telemetry) -> Self {
        let processes = Processes::new(sandbox.clone(), config.processes());
        let recordings = Recordings::new(sandbox.clone(), &config.recordings_dir, &config.display);
        let (token, tokens) = watch::channel(None);
        let meter = Meter::start();
        let toolbox = Router::new()
            .merge(info::router(sandbox.clone()))
            .merge(init::router(token))
            .merge(metrics::router(meter.clone()))
            .merge(port::router())
            .merge(preview::router())
            .merge(desktop::router())
            .merge(recording::router(recordings.clone()))
            .merge(processes.router())
            .merge(pinfold_pty::router(sandbox.clone(), config.ptys()))
            .merge(pinfold_interpreter::router(processes.clone(), config.most.contexts))
            .merge(pinfold_files::router(sandbox.clone()))
            .merge(pinfold_git::router(sandbox.clone(), Path::new(OWN_PROGRAM)))
            .merge(pinfold_lsp::router(sandbox.clone(), config.most.servers));
        let toolbox = if config.describe { toolbox.merge(describe::router()) } else { toolbox };
        Self {
            sandbox: sandbox.clone(),
            processes,
            toolbox: routes::finish(toolbox.layer(from_fn_with_state(telemetry, trace)), config.guard()),
            meter,
            tokens,
            exporter: None,
            exit_with_entrypoint: config.exit_with_entrypoint,
            terminal: routes::finish(
                pinfold_pty::terminal_router(sandbox.clone(), config.most.ptys),
                config.guard(),
            ),
            dashboard: routes::finish(recording::dashboard(recordings), config.guard()),
            ssh: config.ssh(),
        }
    }

    /// Starts the image's own command, if there is one.
    pub fn start_entrypoint(&self, arguments: &[String]) -> Result<(), ApiError> {
        if arguments.is_empty() { Ok(()) } else { self.processes.start_entrypoint(arguments) }
    }

    /// Starts sending telemetry, if it is configured, once there is a token. The entrypoint has to have been started.
    pub fn start_telemetry(&mut self, config: &Config, records: Records) {
        let entrypoint = self.processes.follow_entrypoint();
        match Exporter::start(config, records, self.tokens.clone(), self.meter.clone(), entrypoint) {
            Ok(exporter) => self.exporter = exporter,
            Err(error) => tracing::warn!(%error, "telemetry is off"),
        }
    }

    /// Serves until SIGINT, SIGTERM or a failure, then ends everything within nine seconds.
    pub async fn run(self, listeners: Listeners) -> Result<(), Fatal> {
        // Before anybody knows that we are here: a signal that nobody waits for would end the daemon at once or, for process 1, be lost.
        let told_to_end = told_to_end()?;
        listeners.print();
        tokio::spawn(keep_a_thread());
        let (stop, stopped) = watch::channel(());
        let stopping = |mut stopped: watch::Receiver<()>| async move { drop(stopped.changed().await) };
        let toolbox = tokio::spawn(serve(listeners.toolbox, self.toolbox, stopping(stopped.clone()), DRAIN));
        let terminal =
            tokio::spawn(serve(listeners.terminal, self.terminal, stopping(stopped.clone()), DRAIN));
        let dashboard = tokio::spawn(serve(listeners.recordings, self.dashboard, stopping(stopped), DRAIN));
        tokio::spawn(resident::settle());
        let ssh = pinfold_ssh::serve(listeners.ssh, self.sandbox, self.ssh);
        let outcome = tokio::select! {
            name = told_to_end => {
                tracing::info!(signal = name, "the daemon ends");
                Ok(())
            }
            result = ssh => result.map_err(Fatal::from),
            () = entrypoint_decides(&self.processes, self.exit_with_entrypoint) => Ok(()),
        };
        drop(stop);
        let end = async {
            let (toolbox, _, _, ()) = tokio::join!(toolbox, terminal, dashboard, self.processes.shut_down());
            if let Ok(Err(error)) = toolbox {
                tracing::warn!(%error, "not every request was finished");
            }
            if let Some(exporter) = self.exporter {
                exporter.stop().await;
            }
        };
        if tokio::time::timeout(END, end).await.is_err() {
            tracing::warn!(limit = ?END, "the daemon ends with work undone");
        }
        outcome
    }
}

/// Gives a thread for blocking work something to do before it would be given up. See [`SPARE_THREAD`].
async fn keep_a_thread() {
    let beat = Beat::every(SPARE_THREAD * 3 / 4);
    loop {
        // Nobody waits for the end of it: that would wake a second thread each time.
        drop(tokio::task::spawn_blocking(|| ()));
        beat.next().await;
    }
}

/// The image's own command ends unseen in the original: here the log says so, and the operator may have the daemon end with it.
async fn entrypoint_decides(processes: &Processes, exit_with_it: bool) {
    let exit_code = processes.entrypoint_ended().await;
    tracing::info!(exit_code, exit_with_it, "the entrypoint has ended");
    if !exit_with_it {
        std::future::pending().await
    }
}

/// From now on signals are waited for; the future has the name of the first.
fn told_to_end() -> io::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}
