//! The node agent: it turns a control plane's jobs into containers on this host, and proxies calls to the daemons in them.
//!
//! [`Config`] says how, [`run`] does it. Inside, [`node::Node`] holds what is shared; each sandbox has one owner task; results of jobs are kept
//! in an outbox until acknowledged; the index of sandboxes is fed by engine events. Nothing here knows SQL, or how a control plane stores anything.

pub mod api;
pub mod config;
pub mod daemon;
mod domain;
pub mod error;
mod events;
mod files;
mod gateway;
mod gpu;
mod healing;
pub mod health;
pub mod images;
pub mod index;
pub mod jobs;
pub mod node;
pub mod observe;
pub mod policy;
pub mod records;
mod run;
mod s3;
pub mod sandbox;
mod services;
mod spans;
pub mod ssh_gateway;
pub mod sync;
pub mod takeover;
pub mod telemetry;
mod tls;
pub mod volumes;

pub use config::{Config, ObjectStore, SshGateway};
pub use error::RunError;
pub use run::{run, serve};
pub use services::has_project_quota;
