//! What the official SDKs read from and send to a control plane.

pub mod account;
pub mod list;
pub mod sandbox;
pub mod snapshot;
pub mod volume;
