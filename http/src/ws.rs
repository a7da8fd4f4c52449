//! The WebSocket rules of the toolbox contract (2.6): which sub-protocol is echoed, and how a socket is closed.

use axum::extract::ws::{CloseFrame, Utf8Bytes};
use http::HeaderMap;
use http::header::SEC_WEBSOCKET_PROTOCOL;

/// Close code for a normal end.
pub const NORMAL: u16 = 1000;
/// Close code for a peer that goes away.
pub const GOING_AWAY: u16 = 1001;
/// Close code for a message that cannot be understood.
pub const PROTOCOL_ERROR: u16 = 1002;
/// Close code for text that is not UTF-8.
pub const BAD_TEXT: u16 = 1007;
/// Close code for a policy violation, such as a consumer that is too slow.
pub const POLICY: u16 = 1008;
/// Close code for a message beyond what is taken.
pub const TOO_BIG: u16 = 1009;
/// Close code for a failure on our side.
pub const INTERNAL: u16 = 1011;

/// Token with which a browser client announces its SDK version: `X-Daytona-SDK-Version~<version>`.
pub const SDK_VERSION_TOKEN: &str = "X-Daytona-SDK-Version~";
/// Token with which a client says that it understands the PTY's `exited` message.
pub const EXIT_CONTROL_TOKEN: &str = "X-Daytona-Pty-Exit-Control";
/// Token that carries a PTY's environment: `X-Daytona-Pty-Envs~<base64url JSON>`.
pub const PTY_ENVS_TOKEN: &str = "X-Daytona-Pty-Envs~";

/// The sub-protocols a client offered, in order.
pub fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
}

/// The one sub-protocol to echo: none if none was offered, else exactly one of those offered, and never the environment if avoidable.
pub fn select(offered: &[String]) -> Option<String> {
    let starting = |prefix: &str| offered.iter().find(|t| t.starts_with(prefix));
    starting(SDK_VERSION_TOKEN)
        .or_else(|| offered.iter().find(|t| *t == EXIT_CONTROL_TOKEN))
        .or_else(|| offered.iter().find(|t| !t.starts_with(PTY_ENVS_TOKEN)))
        .or(offered.first())
        .cloned()
}

/// A close frame whose reason fits: at most 123 bytes, cut on a character boundary.
pub fn close_frame(code: u16, reason: &str) -> CloseFrame {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame { code, reason: Utf8Bytes::from(&reason[..end]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn echoes_exactly_one_offered_token() {
        assert_eq!(select(&[]), None);
        let cases: [(&[&str], &str); 4] = [
            (&["X-Daytona-Pty-Envs~eyJ9", "X-Daytona-SDK-Version~0.2"], "X-Daytona-SDK-Version~0.2"),
            (&["X-Daytona-Pty-Envs~eyJ9", "X-Daytona-Pty-Exit-Control"], "X-Daytona-Pty-Exit-Control"),
            (&["X-Daytona-Pty-Envs~eyJ9", "other"], "other"),
            (&["X-Daytona-Pty-Envs~eyJ9"], "X-Daytona-Pty-Envs~eyJ9"),
        ];
        for (offer, expected) in cases {
            assert_eq!(select(&tokens(offer)).as_deref(), Some(expected), "{offer:?}");
        }
    }

    #[test]
    fn close_reasons_fit_the_frame() {
        let frame = close_frame(INTERNAL, &"é".repeat(100));
        assert!(frame.reason.len() <= 123 && frame.reason.chars().all(|c| c == 'é'));
    }
}
