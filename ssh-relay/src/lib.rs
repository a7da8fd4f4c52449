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

/// The algorithms of both halves. A client's order counts, so upstream the quickest cipher comes first.
fn preferred() -> russh::Preferred {
    use russh::{cipher, kex};
    const CIPHERS: &[cipher::Name] = &[
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
        cipher::AES_256_CTR,
        cipher::AES_192_CTR,
        cipher::AES_128_CTR,
    ];
    /// Key exchanges: russh's own choice, and behind it the NIST curves, which some clients have nothing but.
    const KEY_EXCHANGES: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::DH_GEX_SHA256,
        kex::DH_G18_SHA512,
        kex::DH_G16_SHA512,
        kex::DH_G14_SHA256,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::EXTENSION_SUPPORT_AS_CLIENT,
        kex::EXTENSION_SUPPORT_AS_SERVER,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
    ];
    russh::Preferred { kex: KEY_EXCHANGES.into(), cipher: CIPHERS.into(), ..russh::Preferred::default() }
}
