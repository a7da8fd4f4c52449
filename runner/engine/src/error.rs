//! What an engine call can end with, classed by what the caller does about it.

use std::time::Duration;

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why an engine call failed. `what` names the call and its object, for example `create container b8c3…`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The container, image or network definitely does not exist.
    #[error("{what}: {message}")]
    NotFound {
        /// The call.
        what: String,
        /// The engine's words.
        message: String,
    },
    /// The name is taken, or the object is in use.
    #[error("{what}: {message}")]
    Conflict {
        /// The call.
        what: String,
        /// The engine's words.
        message: String,
    },
    /// The engine refused an argument.
    #[error("{what}: {message}")]
    InvalidArgument {
        /// The call.
        what: String,
        /// The engine's words.
        message: String,
    },
    /// A registry refused the credentials.
    #[error("{what}: {message}")]
    Unauthorized {
        /// The call.
        what: String,
        /// The engine's words.
        message: String,
    },
    /// The engine failed in its own way.
    #[error("{what}: {message}")]
    Internal {
        /// The call.
        what: String,
        /// The engine's words.
        message: String,
    },
    /// The engine does not answer at its address. "Can not connect" is a phrase that control planes look for.
    #[error("{what}: Can not connect to the Docker daemon: {message}")]
    Unreachable {
        /// The call.
        what: String,
        /// The transport's words.
        message: String,
    },
    /// The engine accepted the call and did not finish it in time.
    #[error("{what}: the engine did not finish within {after:?}")]
    Timeout {
        /// The call.
        what: String,
        /// The deadline that passed.
        after: Duration,
    },
}

impl EngineError {
    /// True when the object definitely does not exist. A timeout or a lost engine is *not* that.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// True when a name is taken or an object is in use.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// True when asking again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    pub(crate) fn from_status(what: &str, status: u16, message: String) -> Self {
        let what = what.to_owned();
        // Engines answer 500 or 404 for a registry's refusal; only the words tell (runner contract 4.1).
        let lower = message.to_ascii_lowercase();
        if lower.contains("unauthorized") || lower.contains("authentication required") || status == 401 {
            return Self::Unauthorized { what, message };
        }
        match status {
            404 => Self::NotFound { what, message },
            409 => Self::Conflict { what, message },
            400 => Self::InvalidArgument { what, message },
            _ => Self::Internal { what, message: normalise(message) },
        }
    }
}

/// Control planes decide about automatic retries by phrases of Go's network errors; Rust and proxies word the same causes otherwise.
pub(crate) fn normalise(message: String) -> String {
    let lower = message.to_ascii_lowercase();
    let phrases = [
        ("connection refused", "connect ECONNREFUSED"),
        ("connection reset", "read: connection reset by peer"),
        ("unexpected http status", "received unexpected HTTP status"),
    ];
    for (cause, phrase) in phrases {
        if lower.contains(cause) && !message.contains(phrase) {
            return format!("{message} ({phrase})");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_status_and_words() {
        let class = |status, text: &str| EngineError::from_status("x", status, text.to_owned());
        assert!(class(404, "no such container").is_not_found());
        assert!(class(409, "name in use").is_conflict());
        assert!(matches!(class(400, "bad"), EngineError::InvalidArgument { .. }));
        assert!(matches!(class(500, "unauthorized: access"), EngineError::Unauthorized { .. }));
        assert!(matches!(class(500, "boom"), EngineError::Internal { .. }));
        assert!(!class(500, "boom").is_not_found());
    }

    #[test]
    fn transport_errors_carry_the_phrases_control_planes_look_for() {
        assert!(normalise("dial tcp: connection refused".to_owned()).contains("connect ECONNREFUSED"));
        assert_eq!(normalise("disk full".to_owned()), "disk full");
    }
}
