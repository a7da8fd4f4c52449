//! A streaming reverse proxy: one hop of HTTP/1.1, shared by the daemon's preview route, the runner's toolbox proxy and the control plane's edge.
//!
//! It knows where a request goes and nothing of who may send it. What must stay true:
//!
//! * Nothing is buffered: bodies, event streams, trailers and upgraded connections pass as they come, with the back-pressure of both sides.
//! * Path and query are forwarded as the bytes they came as; percent-encoding is never touched.
//! * A request is sent again only when nobody can have acted on it: it never left us, or it is idempotent, has no body, and its pooled connection
//!   died before a single byte of an answer.
//! * When either side goes away, the other side is told by closing its connection.
//!
//! The only deadline is the one for connecting. What an error means to a client is the caller's decision: see [`ProxyError`].

mod connect;
mod error;
mod headers;
mod proxy;
mod upgrade;

pub use connect::Upstream;
pub use error::ProxyError;
pub use headers::remove_hop_by_hop;
pub use proxy::{CONNECT_TIMEOUT, Proxy, Target};
pub use upgrade::Tunnel;
