//! `pinfold run`: the agent of a compute host, under a control plane that is somewhere else.

use pinfold_runner::Config;
use pinfold_settings::ProcessEnv;

use crate::exit::Failure;
use crate::service;
use crate::whereabouts::Whereabouts;

/// Runs until a signal.
pub(crate) async fn run() -> Result<u8, Failure> {
    let config = Config::from_env(&ProcessEnv).map_err(Failure::usage)?;
    let stop = service::stop_on_signals()?;
    let whereabouts = Whereabouts::of(&config);
    let running = pinfold_runner::run(config, stop, |address| {
        whereabouts.tell(address);
        service::ready(&format!("serving on {address}"));
    });
    running.await.map_err(runner_failure)?;
    Ok(service::SIGNALLED)
}

/// A failure of the runner, with the exit status of its class.
pub(crate) fn runner_failure(error: pinfold_runner::RunError) -> Failure {
    Failure::of_class(error.exit_status(), error)
}
