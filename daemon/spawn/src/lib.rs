//! The process core: starting processes, and the one place that waits for them.
//!
//! [`Spawner`] owns the only reaper of the process. Everything the daemon starts (commands, shells, PTYs, workers, language servers) goes through
//! [`Spawner::spawn`], and nobody else ever calls `wait`: so a status cannot be stolen, lost, or confused with that of a recycled pid, and as PID 1 the
//! daemon reaps adopted orphans without racing its own children. Beside it: the environment that children get ([`Environment`]), which shell they
//! use ([`shell`]), the sandbox's users ([`users`]) and the process tree ([`tree`]).

mod any_signal;
mod directory;
mod environment;
mod exit;
pub mod oom;
pub mod pidfd;
mod reaper;
mod sandbox;
pub mod shell;
mod signals;
mod spawner;
pub mod terminal;
pub mod tree;
pub mod users;
mod wait;

pub use any_signal::AnySignal;
pub use environment::{Environment, InvalidName, is_valid_name};
pub use exit::Exit;
pub use sandbox::Sandbox;
pub use spawner::{Process, SpawnError, Spawner, is_no_room};
