//! The embedded control plane: what the official SDKs talk to, in one process with one SQLite file.
//!
//! * [`store`] is the durable half, `sandbox` the state machines, `images`, `snapshots`, `volumes`, `runners`, `jobs`, `keys` and `tokens` the other things
//!   it manages; each is loaded at start, kept in memory, and changed by a transaction first.
//! * `api` is the REST API, `edge` the way into sandboxes, `socket` the events.
//!
//! Runners are reached as any control plane reaches them: they poll for jobs and report over HTTP. What must stay true: an answer to a client shows only
//! what was committed; the end of a job is acknowledged only after its effect was committed; a sandbox has one owner; nothing waits for a tick.

mod api;
mod client;
mod config;
mod core;
mod edge;
mod events;
mod gateway;
mod images;
mod jobs;
mod keys;
mod lock;
mod pools;
mod registries;
mod runners;
mod s3;
mod sandbox;
mod score;
mod snapshots;
mod socket;
pub mod ssh_gateway;
mod start;
mod storage;
mod store;
mod sweep;
mod time;
mod token;
mod tokens;
mod volumes;
mod wire;

pub use config::{Config, DefaultSnapshot};
pub use s3::S3Config;
pub use start::{Running, StartError, start};
pub use store::backup::{BackupError, backup, restore};
