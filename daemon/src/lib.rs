//! The toolbox daemon: configuration, wiring, and the routes that say what the sandbox is.
//!
//! Everything a person or a program does in a sandbox goes through this one process, usually PID 1: it must start in milliseconds, stay small, never
//! stall, and never die of what its children do. The groups of routes are crates of their own; this one puts them together.

mod beat;
pub mod cli;
pub mod config;
mod describe;
mod desktop;
mod guard;
mod info;
mod init;
mod listen;
pub mod logging;
mod metrics;
mod port;
mod preview;
mod recording;
mod resident;
mod rotate;
pub mod routes;
mod sandbox;
mod server;
mod strict;
pub mod telemetry;

pub use guard::Guard;
pub use info::VERSION;
pub use listen::{BindError, Listeners};
pub use sandbox::{StartError, sandbox};
pub use server::{Fatal, SPARE_THREAD, Servers};
