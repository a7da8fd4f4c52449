//! Jobs (runner contract 3 and 17): one poll, an executor with limits for each class of work, and results that are kept until acknowledged.

mod client;
mod deadline;
mod executor;
mod gate;
mod outbox;
mod poller;

pub use client::{ApiCallError, ControlPlane, HttpControlPlane, Listing, RemoteSandbox, http_client};
pub use executor::Executor;
pub use outbox::Outbox;
pub use poller::poll;
