//! PTY sessions: named shells on terminals, to which any number of clients attach over WebSockets (toolbox contract 10).
//!
//! Who owns what: a [`registry::Registry`] holds the names; a [`shell::Session`] is one of them; each started session has one task
//! ([`crate::relay::pump`]) that reads and writes its terminal; what it read is kept in one bounded [`crate::relay::output::OutputLog`], in which every attached client
//! ([`attach`]) has a position of its own. There are no queues to clients that could grow or be closed twice.
//!
//! Order, for every client: `connected`, output, everything the terminal held when the shell ended, `exited` (if asked for), close.

mod attach;
mod exit;
mod registry;
mod rest;
mod shell;

pub use registry::Settings;
pub use rest::router;
