//! Exit statuses. They are an API: a supervisor acts on them, so each class of failure has its own (docs/exit-status.md).

use std::fmt::Display;
use std::process::ExitCode;

/// Why a command failed: one clear sentence, and the class that decides the exit status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// 1: it was running and could not go on.
    pub(crate) fn runtime(message: impl Display) -> Self {
        Self { status: 1, message: message.to_string() }
    }

    /// 2: the command line or the configuration is wrong, or start-up failed.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { status: 2, message: message.to_string() }
    }

    /// 10: the API could not be reached.
    pub(crate) fn unreachable(message: impl Display) -> Self {
        Self { status: 10, message: message.to_string() }
    }

    /// 11: the API refused (12 for a bad key, 13 for something that does not exist).
    pub(crate) fn refused(http_status: u16, message: impl Display) -> Self {
        let status = match http_status {
            401 | 403 => 12,
            404 => 13,
            _ => 11,
        };
        Self { status, message: message.to_string() }
    }

    /// A failure with a class of its own, for what the runner and the control plane report.
    pub(crate) fn of_class(status: u8, message: impl Display) -> Self {
        Self { status, message: message.to_string() }
    }

    /// Whether it is that something does not exist.
    pub(crate) fn not_found(&self) -> bool {
        self.status == 13
    }

    /// The process's exit status.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.status)
    }
}
