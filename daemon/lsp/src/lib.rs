//! The toolbox's language server routes (toolbox contract, section 13).
//!
//! Each pair of language and project has at most one server, a child process that speaks JSON-RPC over its standard streams. A server
//! that has died is started again, with its documents, by the next call that needs it: so a crash costs no call, and a server that
//! cannot live costs nothing until somebody asks.
//!
//! Invariants:
//! * every wait for a server has a limit, and a call that ends early takes its request back;
//! * messages are bounded ([`frame`]), queues too;
//! * a stopped server's process tree is gone when `/lsp/stop` answers;
//! * clients never get `null` for a list, nor documentation that is not an object.

mod answer;
mod client;
mod document;
mod error;
mod frame;
mod language;
mod registry;
mod routes;
mod server;
mod workspace;

pub use routes::router;
