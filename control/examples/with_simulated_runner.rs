//! A control plane with a runner that has no engine, for tests of clients: prints one JSON line with its address and key, and runs until its
//! standard input ends. Settings are read from the environment; the default is a free port and a data directory of its own.
//!
//! `SIM_RUNNER=off` leaves the runner out, and `SIM_RUNNER=only` with `SIM_API` and `SIM_TOKEN` is the runner alone, so that either can be killed.

mod simulated;

use std::io::Write;
use std::process::ExitCode;

use pinfold_control::Config;
use pinfold_settings::{ProcessEnv, Reader};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let role = std::env::var("SIM_RUNNER").unwrap_or_default();
    if role == "only" {
        let (api, token) = (std::env::var("SIM_API")?, std::env::var("SIM_TOKEN")?);
        let runner = simulated::SimulatedRunner::start(api.parse()?, &token).await?;
        let working = tokio::spawn(runner.clone().run());
        writeln!(std::io::stdout(), "{{}}")?;
        until_input_ends().await?;
        working.abort();
        return Ok(());
    }
    let mut reader = Reader::new(&ProcessEnv);
    let mut config = Config::read(&mut reader);
    reader.finish(())?;
    if std::env::var_os("PINFOLD_BIND").is_none() {
        config.bind.set_port(0);
    }
    let own = tempfile::tempdir()?;
    if std::env::var_os("PINFOLD_DATA_DIR").is_none() {
        config.data_dir = own.path().to_owned();
        config.context_dir = own.path().join("contexts");
        config.volume_dir = own.path().join("volumes");
    }
    if std::env::var_os("PINFOLD_SSH_PORT").is_none() {
        config.ssh_port = 0;
    }
    if std::env::var_os("PINFOLD_STORAGE_PORT").is_none() {
        config.storage_port = 0;
    }
    let stop = CancellationToken::new();
    let running = pinfold_control::start(config, stop.clone()).await?;
    if role != "off" {
        let runner =
            simulated::SimulatedRunner::start(running.address, running.runner_token.expose()).await?;
        runner.healthcheck().await;
        tokio::spawn(runner.run());
    }
    let line = serde_json::json!({
        "url": running.api_url(), "port": running.address.port(), "apiKey": running.api_key.expose(),
        "runnerToken": running.runner_token.expose(), "sshPort": running.ssh_address.map(|address| address.port()),
    });
    writeln!(std::io::stdout(), "{line}")?;
    std::io::stdout().flush()?;
    until_input_ends().await?;
    stop.cancel();
    running.join().await;
    Ok(())
}

async fn until_input_ends() -> std::io::Result<()> {
    let mut byte = [0u8; 1];
    while tokio::io::stdin().read(&mut byte).await? > 0 {}
    Ok(())
}
