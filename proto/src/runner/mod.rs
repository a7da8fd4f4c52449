//! What passes between a control plane and a runner: healthchecks, jobs and their payloads, and the runner's own HTTP shapes.

pub mod api;
pub mod health;
pub mod job;
pub mod payload;
pub mod recovery;
