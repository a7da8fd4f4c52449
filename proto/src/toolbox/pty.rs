//! PTY sessions: REST bodies, the control messages of their sockets, and how an exit code is told (toolbox contract 10).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::null;

/// Columns of a session that names none.
pub const DEFAULT_COLS: u16 = 80;
/// Rows of a session that names none.
pub const DEFAULT_ROWS: u16 = 24;
/// The most columns or rows a session may have.
pub const MAX_SIDE: u16 = 1000;
/// `TERM` of a session that names none.
pub const DEFAULT_TERM: &str = "xterm-256color";

/// Body of `POST /process/pty`. Zero and absent sizes mean the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateRequest {
    /// The session's name, chosen by the client. Required.
    #[serde(default, deserialize_with = "null::as_default")]
    pub id: String,
    /// Start directory; the work directory if empty.
    #[serde(default, deserialize_with = "null::as_default")]
    pub cwd: String,
    /// Added over the daemon's environment.
    #[serde(default, deserialize_with = "null::string_map")]
    pub envs: BTreeMap<String, String>,
    /// Columns.
    #[serde(default, deserialize_with = "null::as_default")]
    pub cols: u16,
    /// Rows.
    #[serde(default, deserialize_with = "null::as_default")]
    pub rows: u16,
    /// Start the shell when the first client attaches.
    #[serde(default, deserialize_with = "null::as_default")]
    pub lazy_start: bool,
}

/// Answer to `POST /process/pty`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// The new session's name.
    pub session_id: String,
}

/// One session, as it is listed. Every member is mandatory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// Its name.
    pub id: String,
    /// Its start directory.
    pub cwd: String,
    /// Its own variables, `TERM` among them.
    pub envs: BTreeMap<String, String>,
    /// Columns now.
    pub cols: u16,
    /// Rows now.
    pub rows: u16,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Whether its shell runs.
    pub active: bool,
    /// Whether its shell waits for the first client.
    pub lazy_start: bool,
}

/// Answer to `GET /process/pty`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// All sessions, oldest first.
    pub sessions: Vec<SessionInfo>,
}

/// Body of `POST /process/pty/{id}/resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeRequest {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A text frame of a session's socket. Terminal output is never text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "control")]
pub struct Control {
    /// What happened, with its details.
    #[serde(flatten)]
    pub status: Status,
}

/// What a control message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Status {
    /// The client is attached; output follows.
    Connected {
        /// Position of the first byte of output that follows, counted from the session's start. Only for clients that asked for a replay.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// The client could not be attached.
    Error {
        /// Why.
        error: String,
    },
    /// The shell has ended, and everything it wrote was sent. Only for clients that offered the capability.
    Exited(ExitNotice),
}

/// How the shell ended: an `exited` message's members, and the reason of the close frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitNotice {
    /// 0–255; 128 + n for signal n.
    pub exit_code: i32,
    /// In words; absent for 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_reason: Option<String>,
}

impl ExitNotice {
    /// The table of the contract (10.4).
    pub fn new(exit_code: i32) -> Self {
        let exit_reason = match exit_code {
            0 => None,
            130 => Some("Ctrl+C".to_owned()),
            137 => Some("SIGKILL".to_owned()),
            143 => Some("SIGTERM".to_owned()),
            code if code > 128 => Some(format!("signal {}", code - 128)),
            _ => Some("non-zero exit".to_owned()),
        };
        Self { exit_code, exit_reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_the_contracts() {
        let json = |status| serde_json::to_string(&Control { status }).unwrap();
        assert_eq!(json(Status::Connected { offset: None }), r#"{"type":"control","status":"connected"}"#);
        assert_eq!(
            json(Status::Error { error: "x".into() }),
            r#"{"type":"control","status":"error","error":"x"}"#
        );
        assert_eq!(
            json(Status::Exited(ExitNotice::new(0))),
            r#"{"type":"control","status":"exited","exitCode":0}"#
        );
        assert_eq!(
            json(Status::Exited(ExitNotice::new(130))),
            r#"{"type":"control","status":"exited","exitCode":130,"exitReason":"Ctrl+C"}"#
        );
    }

    #[test]
    fn exit_codes_have_the_contracts_reasons() {
        let reason = |code| ExitNotice::new(code).exit_reason.unwrap_or_default();
        let cases = [
            (0, ""),
            (3, "non-zero exit"),
            (128, "non-zero exit"),
            (130, "Ctrl+C"),
            (137, "SIGKILL"),
            (143, "SIGTERM"),
            (139, "signal 11"),
        ];
        for (code, expected) in cases {
            assert_eq!(reason(code), expected, "{code}");
        }
    }

    #[test]
    fn create_requests_may_hold_nulls() {
        let request: CreateRequest =
            serde_json::from_str(r#"{"id":"t","cwd":null,"envs":{"A":"1","B":null},"cols":null,"extra":1}"#)
                .unwrap();
        assert_eq!((request.id.as_str(), request.cols, request.envs.len()), ("t", 0, 1));
        assert!(serde_json::from_str::<CreateRequest>(r#"{"id":"t","cols":-1}"#).is_err());
    }
}
