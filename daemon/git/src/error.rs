//! Why a git operation failed, in the classes that a client acts on (toolbox contract 12.4).

use git2::{ErrorClass, ErrorCode};
use http::StatusCode;
use pinfold_http::ApiError;

use crate::remote::without_logins;

/// A failed operation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

/// What kind of failure; each has one status and one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The remote wants credentials, or others.
    Auth,
    /// The remote knows the user and refuses.
    Forbidden,
    /// No repository there, here or remotely.
    RepositoryNotFound,
    /// No such branch, revision or remote.
    BranchNotFound,
    BranchExists,
    /// The remote has commits that would be lost.
    PushRejected,
    /// Local changes are in the way.
    Dirty,
    /// The branches have diverged, or the index is unmerged.
    MergeConflict,
    /// Name resolution, TLS, connection or timeout.
    Transport,
    /// A hook, a protected branch or a quota.
    RemoteRejected,
    Conflict,
    Invalid,
    /// The sandbox has no memory left for it.
    OutOfMemory,
    Internal,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn no_branch(message: impl Into<String>) -> Self {
        Self::new(Kind::BranchNotFound, message)
    }

    pub(crate) fn dirty(message: impl Into<String>) -> Self {
        Self::new(Kind::Dirty, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(Kind::Transport, "the operation was cancelled: the client went away")
    }

    /// The same failure, naming the step it happened in.
    pub(crate) fn during(mut self, step: &str) -> Self {
        self.message = format!("{step}: {}", self.message);
        self
    }
}

impl From<git2::Error> for Failure {
    fn from(error: git2::Error) -> Self {
        let kind = match (error.code(), error.class()) {
            (ErrorCode::NotFound, ErrorClass::Repository | ErrorClass::Os) => Kind::RepositoryNotFound,
            (ErrorCode::NotFound | ErrorCode::UnbornBranch | ErrorCode::Ambiguous, _) => Kind::BranchNotFound,
            (ErrorCode::Conflict, ErrorClass::Checkout)
            | (ErrorCode::Uncommitted | ErrorCode::IndexDirty, _) => Kind::Dirty,
            (ErrorCode::MergeConflict | ErrorCode::Unmerged, _) => Kind::MergeConflict,
            (ErrorCode::NotFastForward, _) => Kind::PushRejected,
            (ErrorCode::Auth, _) => Kind::Auth,
            (ErrorCode::Exists | ErrorCode::Locked, _) => Kind::Conflict,
            (ErrorCode::InvalidSpec, _) | (_, ErrorClass::Invalid) => Kind::Invalid,
            (ErrorCode::BareRepo, _) => Kind::Invalid,
            (ErrorCode::Certificate | ErrorCode::Timeout, _) => Kind::Transport,
            (_, ErrorClass::NoMemory) => Kind::OutOfMemory,
            (_, ErrorClass::Net | ErrorClass::Ssl | ErrorClass::Http | ErrorClass::Ssh) => Kind::Transport,
            _ => Kind::Internal,
        };
        Self::new(kind, error.message())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        Self::new(if denied { Kind::Forbidden } else { Kind::Internal }, error.to_string())
    }
}

impl From<Failure> for ApiError {
    fn from(Failure { kind, message }: Failure) -> Self {
        let (status, code) = match kind {
            Kind::Auth => (StatusCode::UNAUTHORIZED, "GIT_AUTH_FAILED"),
            Kind::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Kind::RepositoryNotFound => (StatusCode::NOT_FOUND, "GIT_REPO_NOT_FOUND"),
            Kind::BranchNotFound => (StatusCode::NOT_FOUND, "GIT_BRANCH_NOT_FOUND"),
            Kind::BranchExists => (StatusCode::CONFLICT, "GIT_BRANCH_EXISTS"),
            Kind::PushRejected => (StatusCode::CONFLICT, "GIT_PUSH_REJECTED"),
            Kind::Dirty => (StatusCode::CONFLICT, "GIT_DIRTY_WORKTREE"),
            Kind::MergeConflict => (StatusCode::CONFLICT, "GIT_MERGE_CONFLICT"),
            Kind::Transport => (StatusCode::BAD_GATEWAY, "GIT_TRANSPORT_FAILED"),
            Kind::RemoteRejected => (StatusCode::UNPROCESSABLE_ENTITY, "GIT_REMOTE_REJECTED"),
            Kind::Conflict => (StatusCode::CONFLICT, "CONFLICT"),
            Kind::Invalid => (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
            // Not 503: the same again needs the same memory.
            Kind::OutOfMemory => (StatusCode::INTERNAL_SERVER_ERROR, "GIT_OUT_OF_MEMORY"),
            Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR"),
        };
        // Any step may name a URL.
        Self::new(status, without_logins(&message)).code(code)
    }
}
