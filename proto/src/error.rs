//! The error body of all three contracts, and the codes that clients act on.

use serde::{Deserialize, Serialize};

/// The JSON body of every error answer.
///
/// The daemon and the runner send `code` and (the daemon only) `source`; the control plane adds the HTTP reason phrase as `error`.
/// `message` says what failed and why. Nothing here is ever `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// The HTTP status, repeated for clients that only see the body.
    pub status_code: u16,
    /// What failed, in which step, and why.
    pub message: String,
    /// A stable code that a program can act on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// When, RFC 3339 in UTC.
    pub timestamp: String,
    /// The request path, without its query.
    pub path: String,
    /// The request method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Who answered: clients pick precise exception classes only for the pair (source, code).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The message again for old clients (daemon), or the HTTP reason phrase (control plane).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `source` of errors that the daemon answers with.
pub const SOURCE_DAEMON: &str = "DAYTONA_DAEMON";
/// `source` of errors that the control plane answers with.
pub const SOURCE_API: &str = "DAYTONA_API";
/// `source` of errors that a proxy in front of a sandbox answers with.
pub const SOURCE_PROXY: &str = "DAYTONA_PROXY";

/// The generic code of a status (toolbox contract 2.4).
pub fn code_of(status: u16) -> Option<&'static str> {
    Some(match status {
        400 => "BAD_REQUEST",
        401 => "UNAUTHORIZED",
        403 => "FORBIDDEN",
        404 => "NOT_FOUND",
        408 => "REQUEST_TIMEOUT",
        409 => "CONFLICT",
        410 => "GONE",
        422 => "UNPROCESSABLE_ENTITY",
        429 => "TOO_MANY_REQUESTS",
        500 => "INTERNAL_SERVER_ERROR",
        501 => "NOT_IMPLEMENTED",
        502 => "BAD_GATEWAY",
        503 => "SERVICE_UNAVAILABLE",
        504 => "GATEWAY_TIMEOUT",
        _ => return None,
    })
}

/// An error with its causes, on one line: the outermost often says only what was asked of whom.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
