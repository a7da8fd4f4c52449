//! The commands for people at a terminal. Each talks to the public API and nothing else.

pub(crate) mod key;
pub(crate) mod sandbox;
pub(crate) mod snapshot;
