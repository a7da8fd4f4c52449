//! What every HTTP server of Pinfold shares: one error type that becomes the contract's JSON, extractors that read what real clients send,
//! the WebSocket handshake rules, and serving with bounded headers and a graceful end.

mod direct;
mod error;
mod extract;
pub mod json;
mod serve;
pub mod socket;
pub mod ws;

pub use direct::Socket;
pub use error::{ApiError, ErrorStyle, render_errors};
pub use extract::{JsonBody, OptionalJsonBody, Query};
pub use serve::{Closing, ServeError, accept, serve, serve_connection};

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;
