//! Contexts and code-run with real interpreters, real sockets and a real WebSocket client.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod contexts;
mod harness;
mod run;
