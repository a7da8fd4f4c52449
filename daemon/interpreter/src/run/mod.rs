//! `POST /process/code-run` (toolbox contract 7): one program in a language, with real arguments, its output and its charts.
//!
//! How a program is watched, bounded and killed is `pinfold_process`'s business; here it is decided what is started, and what comes back beside output.

mod charts;
mod language;
mod route;
mod typescript;

pub(crate) use route::router;
