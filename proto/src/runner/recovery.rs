//! Which failures a sandbox can be recovered from (runner contract 3.7).

use serde::{Deserialize, Serialize};

/// An error text that a user may try to recover from travels as this JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recoverable {
    /// The original text.
    pub error_reason: String,
    /// Always `true`.
    pub recoverable: bool,
}

const STORAGE: [&str; 3] = ["no space left on device", "storage limit", "disk quota exceeded"];

/// Whether more storage would help, judged by the words that engines and kernels use.
pub fn is_recoverable(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    STORAGE.iter().any(|phrase| reason.contains(phrase))
}

/// The text for a job's `errorMessage`: JSON if recoverable, plain otherwise, never empty, and short enough that the API parses it whole.
pub fn error_message(reason: &str) -> String {
    const LIMIT: usize = 9_000;
    let reason = if reason.trim().is_empty() { "failed without a reason" } else { reason };
    let mut end = reason.len().min(LIMIT);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    if !is_recoverable(reason) {
        return reason.to_owned();
    }
    let body = Recoverable { error_reason: reason.to_owned(), recoverable: true };
    serde_json::to_string(&body).unwrap_or_else(|_| reason.to_owned())
}
