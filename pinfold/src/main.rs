//! Pinfold, the node side of a sandbox cloud: `pinfold run` is the agent of a compute host, `pinfold up` a whole cloud on one machine.

mod api;
mod commands;
mod doctor;
mod exit;
mod run;
mod screen;
mod service;
mod status;
mod table;
mod up;
mod whereabouts;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use pinfold_runner::telemetry::{Exporter, Settings};
use pinfold_settings::{Env, LogFormat, LogObserver, ProcessEnv, Reader};
use tracing::level_filters::LevelFilter;

use crate::exit::Failure;

/// The node side of a sandbox cloud for code that nobody has read
#[derive(Debug, Parser)]
#[command(name = "pinfold", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cloud on this machine: control plane and runner in one process
    Up,
    /// Run the agent of this host under a control plane (DAYTONA_API_URL, DAYTONA_RUNNER_TOKEN)
    Run,
    /// List, create, use and delete sandboxes
    #[command(subcommand)]
    Sandbox(commands::sandbox::SandboxCommand),
    /// List, create and revoke API keys
    #[command(subcommand)]
    Key(commands::key::KeyCommand),
    /// List, register and delete snapshots
    #[command(subcommand)]
    Snapshot(commands::snapshot::SnapshotCommand),
    /// Show runners and sandboxes with what they use, live
    Top(commands::top::Top),
    /// Show what the runner of this host reports of itself, live
    Status(status::Status),
    /// Copy the database of `pinfold up` into a file, also while it runs
    Backup {
        /// The file; it will hold secrets
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Put a copy of the database back; nothing may be running
    Restore {
        /// A file that `pinfold backup` made
        file: PathBuf,
        /// Put a database that is there aside, as control.db.replaced
        #[arg(long)]
        force: bool,
    },
    /// Check whether this host can be a node, with a remedy for each finding
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The host binary brings its own cryptography; a second provider in the process would make the choice ambiguous.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let level = pinfold_settings::level_of(std::env::var("LOG_LEVEL").ok().as_deref());
    let json = std::env::var("PINFOLD_LOG_FORMAT").is_ok_and(|format| format == "json");
    let format = if json { LogFormat::Json } else { LogFormat::Text };
    let telemetry = match &cli.command {
        Command::Up | Command::Run => telemetry(level),
        _ => None,
    };
    let (exporter, observers) = telemetry.unzip();
    pinfold_settings::init_logging(level, format, observers.unwrap_or_default());
    let ended = dispatch(cli.command);
    if let Some(exporter) = exporter {
        exporter.stop();
    }
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("pinfold: {failure}");
            failure.code()
        }
    }
}

/// Telemetry begins before the log does. Mistakes in its settings are reported with all others; a service that cannot export still serves.
fn telemetry(level: LevelFilter) -> Option<(Exporter, Vec<LogObserver>)> {
    let env = ProcessEnv;
    let settings = Settings::read(&mut Reader::new(&env))?;
    let environment = env.get("ENVIRONMENT").unwrap_or_default();
    match pinfold_runner::telemetry::start(&settings, &environment, level) {
        Ok(started) => Some(started),
        Err(error) => {
            eprintln!("pinfold: telemetry is off: {error}");
            None
        }
    }
}

fn dispatch(command: Command) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::runtime(format!("could not start the runtime: {error}")))?;
    match command {
        Command::Up => runtime.block_on(up::up()),
        Command::Run => runtime.block_on(run::run()),
        Command::Sandbox(command) => runtime.block_on(commands::sandbox::run(command)),
        Command::Key(command) => runtime.block_on(commands::key::run(command)).map(|()| 0),
        Command::Snapshot(command) => runtime.block_on(commands::snapshot::run(command)).map(|()| 0),
        Command::Top(top) => runtime.block_on(commands::top::run(top)).map(|()| 0),
        Command::Status(status) => runtime.block_on(status::run(status)).map(|()| 0),
        Command::Backup { file, force } => {
            runtime.block_on(commands::store::backup(&file, force)).map(|()| 0)
        }
        Command::Restore { file, force } => {
            runtime.block_on(commands::store::restore(&file, force)).map(|()| 0)
        }
        Command::Doctor { json } => runtime.block_on(doctor::run(json)).map(|()| 0),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pinfold", &mut script);
            table::print_line(String::from_utf8_lossy(&script).trim_end());
            Ok(0)
        }
    }
}

/// Where a node keeps its state: `PINFOLD_DATA_DIR`, else `/var/lib/pinfold`.
fn data_dir() -> PathBuf {
    std::env::var_os("PINFOLD_DATA_DIR")
        .filter(|d| !d.is_empty())
        .map_or_else(|| "/var/lib/pinfold".into(), PathBuf::from)
}
