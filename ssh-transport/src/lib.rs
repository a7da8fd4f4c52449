//! What the daemon's SSH server and the gateways share below the connection protocol: host keys on disk, the algorithms to offer, accepting connections
//! and cutting them off.
//!
//! It knows neither sandboxes nor who may be let in.

mod accept;
mod algorithms;
pub mod keys;

pub use accept::{HangUp, accept};
pub use algorithms::preferred;
