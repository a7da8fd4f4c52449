//! Carries one client's SSH connection to one upstream server, message by message.
//!
//! Everything above the transport passes as it came: channels of any type, requests of any name with their want-reply and replies, windows, end-of-file,
//! exit statuses, forwards in both directions, keepalives. Channel numbers and windows are those of the two ends, so flow control is end to end, and a relay
//! keeps no more than [`flow`] allows: when the far side does not take it, the near side's socket is not read. Losing the client cuts the upstream
//! connection off.
//!
//! A [`gateway`] is such a relay behind a listener, with a [`Policy`] that says who may pass and where to. What a policy knows (tokens, sandboxes) is no
//! business of this crate. Not passed on: `hostkeys-00@openssh.com` from upstream, whose proof is bound to the transport it came through.

mod flow;
mod gated;
mod gateway;
mod keys;
mod refusal;
mod relay;
mod upstream;

pub use gateway::{Decision, GatewayError, Limits, Policy, Proof, serve};
pub use keys::{KeyError, authorized_line_base64, load_or_create, parse_authorized_line};
pub use refusal::RefusalReason;
pub use russh::MethodKind;
pub use russh::keys::{PrivateKey, PublicKey};
pub use upstream::{Credential, Target};
