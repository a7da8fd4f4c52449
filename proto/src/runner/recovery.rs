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

/// The beginning of `text`, no longer than `limit` bytes.
fn beginning(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The text for a job's `errorMessage`: JSON if recoverable, plain otherwise, never empty, and short enough that the API parses it whole.
pub fn error_message(reason: &str) -> String {
    const LIMIT: usize = 9_000;
    let reason = if reason.trim().is_empty() { "failed without a reason" } else { reason };
    let mut kept = beginning(reason, LIMIT);
    if !is_recoverable(reason) {
        return kept.to_owned();
    }
    loop {
        let body = Recoverable { error_reason: kept.to_owned(), recoverable: true };
        match serde_json::to_string(&body) {
            // What a program printed may need many more bytes as JSON than it has.
            Ok(text) if text.len() > LIMIT => kept = beginning(kept, kept.len() / 2),
            Ok(text) => return text,
            Err(_) => return kept.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract 17.1: the API cuts texts at 10 000 characters before it parses them, and JSON that was cut is an error nobody can recover from.
    #[test]
    fn a_recoverable_error_stays_whole_whatever_was_printed() {
        for noise in ["\u{1}", "\"", "\n", "ü", "x"] {
            let told = error_message(&format!("{} No space left on device", noise.repeat(20_000)));
            let body: Recoverable = serde_json::from_str(&told).unwrap();
            assert!(told.len() < 10_000 && body.recoverable && !body.error_reason.is_empty(), "{noise:?}");
        }
        assert!(error_message(&"ü".repeat(20_000)).len() < 10_000);
        assert_eq!(error_message(" "), "failed without a reason");
    }
}
