//! Telemetry (toolbox contract 20): spans of requests, logs of the daemon and the entrypoint, the sandbox's figures, sent as OTLP over HTTP.
//!
//! Off unless `DAYTONA_OTEL_ENDPOINT` is set and `/init` was called. Exporting happens on a thread and a runtime of its own; the rest of the daemon only
//! puts records into a bounded queue and never waits: what does not fit is counted and dropped. Each `/init` starts anew with its token.

mod export;
mod resource;
mod spans;

pub(crate) use export::Exporter;
pub use pinfold_otlp::{LogLayer, Records, Telemetry, channel};
pub(crate) use spans::trace;
