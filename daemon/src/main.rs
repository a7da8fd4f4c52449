//! The toolbox daemon that Pinfold injects into every sandbox.
//!
//! Exit codes: 2 for configuration, home or session start failures; 1 for a failure afterwards, or a missing log with `entrypoint logs`; 0 otherwise.

use std::process::ExitCode;
use std::time::Duration;

use pinfold_daemon::cli::{Invocation, print_log};
use pinfold_daemon::config::Config;
use pinfold_daemon::logging::{self, Log};
use pinfold_daemon::telemetry::{self, LogLayer, Records, Telemetry};
use pinfold_daemon::{Listeners, SPARE_THREAD, Servers, VERSION, sandbox};
use pinfold_settings::ProcessEnv;

/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    if pinfold_git::is_engine() {
        logging::to_standard_error();
        return pinfold_git::engine();
    }
    let config = match Config::read(&ProcessEnv) {
        Ok(config) => config,
        Err(error) => return failed(2, &error),
    };
    let entrypoint = match Invocation::of(std::env::args_os().skip(1)) {
        Invocation::Serve(entrypoint) => entrypoint,
        Invocation::EntrypointLogs => return print_entrypoint_log(&config),
    };
    let (telemetry, records) = telemetry::channel();
    let exported = config.telemetry.is_some().then(|| LogLayer(telemetry.clone()));
    let log = match Log::start(config.level, config.log_file.clone(), exported) {
        Ok(log) => log,
        Err(error) => return failed(2, &error),
    };
    tracing::info!(
        version = VERSION,
        sandbox = config.sandbox_id,
        pid = std::process::id(),
        "the daemon starts"
    );
    pinfold_spawn::oom::protect();
    pinfold_spawn::terminal::leave();
    let code = match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(run(config, &entrypoint, telemetry, records));
            // A thread that waits for a client which sends no more has had its time.
            runtime.shutdown_background();
            code
        }
        Err(error) => failed(1, &error),
    };
    log.flush(LAST_LINES);
    code
}

/// As many workers as the cgroup's CPU quota allows: one runs everything on this thread.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => tokio::runtime::Builder::new_current_thread(),
        n => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(n.min(8));
            builder
        }
    };
    builder.enable_all().thread_keep_alive(SPARE_THREAD).build()
}

async fn run(config: Config, entrypoint: &[String], telemetry: Telemetry, records: Records) -> ExitCode {
    let sandbox = match sandbox(&config) {
        Ok(sandbox) => sandbox,
        Err(error) => return failed(2, &error),
    };
    let mut servers = Servers::new(&config, &sandbox, telemetry);
    if let Err(error) = servers.start_entrypoint(entrypoint) {
        return failed(2, &error);
    }
    servers.start_telemetry(&config, records);
    let listeners = match Listeners::bind(&config.listen).await {
        Ok(listeners) => listeners,
        Err(error) => return failed(1, &error),
    };
    match servers.run(listeners).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}

fn print_entrypoint_log(config: &Config) -> ExitCode {
    match print_log(&pinfold_process::entrypoint_log_path(&config.home)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}

/// Before the log runs, standard error is all there is.
fn failed(code: u8, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "the daemon cannot go on");
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("pinfold-daemon: {error}\n").as_bytes());
    ExitCode::from(code)
}
