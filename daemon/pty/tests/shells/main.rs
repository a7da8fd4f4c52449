//! The terminals with real shells, real sockets and a real WebSocket client.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod core;
mod measure;
mod server;
mod sessions;
mod terminal;
