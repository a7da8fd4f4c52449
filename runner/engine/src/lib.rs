//! The container engine behind one trait: [`Docker`] speaks to a Docker Engine through bollard, [`Simulated`] keeps everything in memory.
//!
//! The trait knows containers, images and networks, and nothing of sandboxes. Every call has a deadline of its own and fails with an
//! [`EngineError`] whose class says what a caller can do about it; no call hangs because the engine does.

mod api;
mod docker;
mod error;
mod simulated;
mod types;

pub use api::Engine;
pub use docker::{ConnectError, Docker};
pub use error::{EngineError, Result};
pub use simulated::{Fault, Simulated};
pub use types::*;
