//! Running code: stateful Python contexts over WebSockets, and single programs with their charts (toolbox contract 7 and 11).
//!
//! Must not know how processes are waited for (`pinfold_spawn`) nor how a command's output is collected (`pinfold_process`).

mod context;
mod python;
mod run;

use axum::Router;
use pinfold_process::Processes;

/// The routes under `/process/interpreter`, for at most `max` contexts besides the default one, and `/process/code-run`.
pub fn router(processes: Processes, max: usize) -> Router {
    context::router(processes.sandbox().clone(), max).merge(run::router(processes))
}
