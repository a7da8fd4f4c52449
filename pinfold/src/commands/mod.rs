//! The commands for people at a terminal. All but `store` talk to the public API and nothing else.

pub(crate) mod key;
mod logs;
pub(crate) mod sandbox;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod top;
