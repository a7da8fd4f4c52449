//! Forwarding (toolbox contract 19.3): connections the client asks for ([`direct`]), listeners it asks for ([`listen`]), and its agent ([`agent`]).
//!
//! A forwarded connection is two one-way copies that end each for itself, so that half-closed connections work; listeners end with the connection.

mod agent;
mod direct;
mod listen;
mod relay;
mod resolve;

pub(crate) use agent::Agent;
pub(crate) use direct::{direct_socket, direct_tcp};
pub(crate) use listen::Forwards;
