//! The wire format of Protocol Buffers, written and read by hand (protobuf.dev/programming-guides/encoding).
//!
//! For the handful of messages that Pinfold exchanges with others in this format: telemetry, and the engine's builder. A code generator and its
//! runtime would weigh more than these messages. Nothing here knows any of them.

mod read;
mod write;

pub use read::{Field, Value, fields};
pub use write::Message;
