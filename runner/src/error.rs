//! The two error types of the runner: [`RunError`], which ends the process, and [`OpError`], which ends one operation.

use std::time::Instant;

use http::StatusCode;
use pinfold_engine::EngineError;
use pinfold_http::ApiError;
use pinfold_proto::runner::recovery::{Recoverable, is_recoverable};
use pinfold_settings::InvalidSettings;

/// Why the runner does not run. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] InvalidSettings),
    /// The runner was built without the in-sandbox daemon.
    #[error(
        "this binary carries no sandbox daemon: build it with `make build`, or set PINFOLD_DAEMON_BINARY to a pinfold-daemon file"
    )]
    NoDaemon,
    /// The daemon could not be written to the data directory.
    #[error("could not write {path}: {source}; check that the data directory exists and is writable")]
    DataDir {
        /// The path.
        path: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// No engine answers.
    #[error("{0}; start Docker, or set DOCKER_HOST to where it listens")]
    NoEngine(String),
    /// Containers' networks and mounts need root.
    #[error("the runner needs root for mounts and network rules: run it with sudo or as a system service")]
    NotRoot,
    /// Someone else listens on our port.
    #[error("port {port} cannot be used: {source}; stop what listens there, or set API_PORT to another port")]
    PortTaken {
        /// The port.
        port: u16,
        /// The system's word.
        source: std::io::Error,
    },
    /// The sandbox network or its rules could not be set up, so no sandbox may start.
    #[error("could not set up the sandbox network: {0}")]
    Network(String),
    /// The HTTP client or another part could not be made.
    #[error("could not start {part}: {reason}")]
    Part {
        /// Which part.
        part: &'static str,
        /// Why.
        reason: String,
    },
}

impl RunError {
    /// The documented exit status of each class (docs/exit-status.md).
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::NoEngine(_) => 3,
            Self::NotRoot => 4,
            Self::DataDir { .. } => 5,
            Self::PortTaken { .. } => 7,
            Self::NoDaemon | Self::Network(_) | Self::Part { .. } => 9,
        }
    }
}

/// What a caller can do about a failed operation; it decides the HTTP status (runner contract 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 400: the request itself is wrong.
    BadRequest,
    /// 401: a registry refused credentials.
    Unauthorized,
    /// 404: there is no such thing.
    NotFound,
    /// 409: the state does not allow it.
    Conflict,
    /// 408: waiting took too long.
    Timeout,
    /// 422: an earlier pull or build failed.
    Unprocessable,
    /// 503: too busy, or a newer operation took over.
    Unavailable,
    /// 500: anything else.
    Internal,
}

/// Why an operation failed: a class and one sentence that names the step, the cause and what helps to find it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// What the caller can do.
    pub class: Class,
    /// The sentence.
    pub message: String,
}

/// Result of an operation.
pub type OpResult<T> = Result<T, OpError>;

impl OpError {
    /// An error of this class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// Puts the step in front of the message, with how long it had been going on.
    #[must_use]
    pub fn during(mut self, step: &str, since: Instant) -> Self {
        self.message =
            format!("{step} failed after {:.1} s: {}", since.elapsed().as_secs_f64(), self.message);
        self
    }
}

impl From<EngineError> for OpError {
    fn from(error: EngineError) -> Self {
        let class = match &error {
            EngineError::NotFound { .. } => Class::NotFound,
            EngineError::Conflict { .. } => Class::Conflict,
            EngineError::InvalidArgument { .. } => Class::BadRequest,
            EngineError::Unauthorized { .. } => Class::Unauthorized,
            EngineError::Internal { message, .. } if message.contains("unable to find user") => {
                Class::BadRequest
            }
            EngineError::Internal { .. } | EngineError::Unreachable { .. } | EngineError::Timeout { .. } => {
                Class::Internal
            }
        };
        Self::new(class, error.to_string())
    }
}

impl From<OpError> for ApiError {
    fn from(error: OpError) -> Self {
        if is_recoverable(&error.message) {
            let reason = format!("{} - you may attempt a recovery action", error.message);
            let body = Recoverable { error_reason: reason, recoverable: true };
            return Self::bad_request(serde_json::to_string(&body).unwrap_or(error.message));
        }
        let (status, prefix) = match error.class {
            Class::BadRequest => (StatusCode::BAD_REQUEST, "bad request: "),
            Class::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized: "),
            Class::NotFound => (StatusCode::NOT_FOUND, "not found: "),
            Class::Conflict => (StatusCode::CONFLICT, "conflict: "),
            Class::Timeout => (StatusCode::REQUEST_TIMEOUT, "request timeout: "),
            Class::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable entity: "),
            Class::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, ""),
            Class::Internal => (StatusCode::INTERNAL_SERVER_ERROR, ""),
        };
        let api = Self::new(status, format_args!("{prefix}{}", error.message));
        if error.class == Class::Unavailable { api.retry_after(1) } else { api }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_400_that_can_be_recovered_from() {
        let error = OpError::new(Class::Internal, "start failed: no space left on device");
        let api = ApiError::from(error);
        assert_eq!(api.status(), 400);
        let body: Recoverable = serde_json::from_str(api.message()).unwrap();
        assert!(body.recoverable && body.error_reason.ends_with("recovery action"));
    }
}
