//! Running code: stateful Python contexts over WebSockets, and single programs with their charts (toolbox contract 7 and 11).
//!
//! Must not know how processes are waited for (`pinfold_spawn`) nor how a command's output is collected (`pinfold_process`).

mod context;

use axum::Router;
use pinfold_spawn::Sandbox;

/// The routes under `/process/interpreter`, and `/process/code-run`.
pub fn router(sandbox: Sandbox) -> Router {
    context::router(sandbox)
}
