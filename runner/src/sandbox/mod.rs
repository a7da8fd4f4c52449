//! The life of a sandbox: create, start, stop, destroy, resize, recover, network settings. One container each, named by the sandbox id.
//!
//! Invariants: operations on one sandbox run in order in its owner task; the network policy is in force before a start; doing any operation
//! twice is harmless; every failure says which step failed, after how long, and why.

mod android;
mod create;
mod definition;
mod destroy;
mod late;
mod links;
mod owner;
mod quota;
mod readiness;
mod recreate;
mod resize;
mod revive;
mod settings;
mod start;
mod stop;

pub(crate) use late::LateStarts;
pub(crate) use owner::panic_text;
pub use owner::{Owners, Urgency};
pub use readiness::daemon_version;
pub(crate) use readiness::last_output;
#[cfg(test)]
pub(crate) use recreate::COPY_LIMIT;

pub use crate::images::Backups;
