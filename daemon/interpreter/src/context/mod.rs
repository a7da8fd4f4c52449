//! Interpreter contexts: each a Python process that keeps its variables between executions (toolbox contract 11).
//!
//! Who owns what: a [`registry::Contexts`] holds the ids; each context has one task ([`owner`]) that alone talks to its worker process
//! ([`worker`]) and runs executions strictly in order ([`execution`]); a client's socket ([`attach`]) gives it a job and gets events through a
//! bounded channel. Nothing is started before it is used.

mod attach;
mod channel;
mod execution;
mod job;
mod owner;
mod registry;
mod rest;
mod worker;

pub(crate) use rest::router;
