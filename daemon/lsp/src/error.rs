//! What can go wrong between a route and a language server.

use std::time::Duration;

use http::StatusCode;
use pinfold_http::ApiError;
use pinfold_spawn::SpawnError;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LspError {
    #[error("no language server is known for {0:?}: python, typescript and javascript are")]
    UnknownLanguage(String),
    #[error("the language server for {language} in {project} is not started")]
    NotStarted { language: String, project: String },
    #[error("there are {0} language servers already")]
    Full(usize),
    #[error("the language server did not start: {0}")]
    Spawn(#[from] SpawnError),
    #[error("the language server did not start: {0}")]
    Start(String),
    #[error("the language server has ended")]
    Ended,
    #[error("the language server did not answer {method} within {} s", limit.as_secs())]
    Timeout { method: &'static str, limit: Duration },
    #[error("the language server refused {method}: {message}")]
    Refused { method: &'static str, message: String },
    #[error("could not read {path}: {reason}")]
    Unreadable { path: String, reason: String },
}

impl From<LspError> for ApiError {
    fn from(error: LspError) -> Self {
        match error {
            LspError::NotStarted { .. } => Self::bad_request(error).code("LSP_SERVER_NOT_INITIALIZED"),
            LspError::Full(max) => Self::too_many(max, "language servers", "PINFOLD_MAX_LANGUAGE_SERVERS"),
            LspError::Spawn(SpawnError::NoRoom { .. }) => Self::exhausted(error),
            LspError::Spawn(_) | LspError::Start(_) => Self::internal(error),
            _ => Self::new(StatusCode::BAD_REQUEST, error),
        }
    }
}
