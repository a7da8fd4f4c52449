//! The sandbox's SSH server (toolbox contract, section 19): shells, commands, SFTP, and forwarding of ports, sockets and agents.
//!
//! russh is the transport and the authentication; the connection protocol (RFC 4254) is spoken here, so that each channel has flow control of its own: a
//! channel nobody reads stops that channel only, nothing is buffered beyond its window, and closing is in order. One [`connection::Connection`] belongs to
//! russh's session task and never waits; each session, forwarded connection or listener has tasks of its own, which end when their channel or the
//! connection does.
//!
//! Processes are started through `pinfold_spawn` and terminals through `pinfold_pty`. This crate must not know HTTP, nor the gateways.

mod channel;
mod config;
mod connection;
mod forward;
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host_key;
mod message;
mod server;
mod session;
mod sftp;
mod wire;

pub use config::{AuthorizedKeys, Config, ParseKeysError};
pub use server::{ServeError, serve};
