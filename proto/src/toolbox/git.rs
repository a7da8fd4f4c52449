//! Requests and responses of the toolbox's git routes (toolbox contract, section 12).
//!
//! Required members are plain; the routes refuse empty ones. Optional members may be `null`.

use serde::{Deserialize, Serialize};

use crate::id::Secret;
use crate::null;

/// `POST /git/clone`.
#[derive(Debug, Clone, Deserialize)]
pub struct CloneRequest {
    /// The remote repository.
    pub url: String,
    /// Where the clone goes.
    pub path: String,
    /// Branch to check out; the remote's default one when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub branch: String,
    /// Commit to check out, detached, after the clone.
    #[serde(default, deserialize_with = "null::as_default")]
    pub commit_id: String,
    /// User name, used only together with `password`.
    pub username: Option<String>,
    /// Password or token.
    pub password: Option<Secret>,
    /// Whether the server's certificate is taken unseen.
    #[serde(default, deserialize_with = "null::as_default")]
    pub insecure_skip_tls: bool,
    /// Number of commits to fetch; all when absent or 0.
    #[serde(default, deserialize_with = "null::as_default")]
    pub depth: u32,
}

/// `POST` and `DELETE /git/branches`.
#[derive(Debug, Clone, Deserialize)]
pub struct BranchRequest {
    /// Repository root.
    pub path: String,
    /// The branch.
    pub name: String,
}

/// `POST /git/checkout`.
#[derive(Debug, Clone, Deserialize)]
pub struct CheckoutRequest {
    /// Repository root.
    pub path: String,
    /// A branch, or a commit.
    pub branch: String,
}

/// `POST /git/add`.
#[derive(Debug, Clone, Deserialize)]
pub struct AddRequest {
    /// Repository root.
    pub path: String,
    /// Paths relative to the root; `.` is everything.
    pub files: Vec<String>,
}

/// `POST /git/commit`.
#[derive(Debug, Clone, Deserialize)]
pub struct CommitRequest {
    /// Repository root.
    pub path: String,
    /// The message.
    pub message: String,
    /// Name of the author and committer.
    pub author: String,
    /// Their address.
    pub email: String,
    /// Whether a commit that changes nothing is made.
    #[serde(default, deserialize_with = "null::as_default")]
    pub allow_empty: bool,
}

/// Answer of `POST /git/commit`.
#[derive(Debug, Clone, Serialize)]
pub struct CommitResponse {
    /// The commit's id, 40 hexadecimal digits.
    pub hash: String,
}

/// `POST /git/push`.
#[derive(Debug, Clone, Deserialize)]
pub struct PushRequest {
    /// Repository root.
    pub path: String,
    /// User name, used only together with `password`.
    pub username: Option<String>,
    /// Password or token.
    pub password: Option<Secret>,
    /// Branch to push; the current one when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub branch: String,
    /// Remote; `origin` when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub remote: String,
    /// Whether the pushed branch becomes the upstream.
    #[serde(default, deserialize_with = "null::as_default")]
    pub set_upstream: bool,
}

/// `POST /git/pull`.
#[derive(Debug, Clone, Deserialize)]
pub struct PullRequest {
    /// Repository root.
    pub path: String,
    /// User name, used only together with `password`.
    pub username: Option<String>,
    /// Password or token.
    pub password: Option<Secret>,
    /// Branch to pull; the current one's upstream when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub branch: String,
    /// Remote; `origin` when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub remote: String,
}

/// `POST /git/init`.
#[derive(Debug, Clone, Deserialize)]
pub struct InitRequest {
    /// Where.
    pub path: String,
    /// Whether it has no working tree.
    #[serde(default, deserialize_with = "null::as_default")]
    pub bare: bool,
    /// The first branch's name; git's default when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub initial_branch: String,
}

/// `POST /git/remotes`.
#[derive(Debug, Clone, Deserialize)]
pub struct AddRemoteRequest {
    /// Repository root.
    pub path: String,
    /// The remote's name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Whether to fetch from it at once.
    #[serde(default, deserialize_with = "null::as_default")]
    pub fetch: bool,
    /// Whether it may replace one of the same name.
    #[serde(default, deserialize_with = "null::as_default")]
    pub overwrite: bool,
}

/// `POST /git/reset`.
#[derive(Debug, Clone, Deserialize)]
pub struct ResetRequest {
    /// Repository root.
    pub path: String,
    /// `soft`, `mixed` (default), `hard`, `merge` or `keep`.
    #[serde(default, deserialize_with = "null::as_default")]
    pub mode: String,
    /// Revision; `HEAD` when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub target: String,
    /// Paths to which a mixed reset is limited.
    #[serde(default, deserialize_with = "null::list")]
    pub files: Vec<String>,
}

/// `POST /git/restore`.
#[derive(Debug, Clone, Deserialize)]
pub struct RestoreRequest {
    /// Repository root.
    pub path: String,
    /// Paths to restore.
    pub files: Vec<String>,
    /// Whether the index is restored.
    #[serde(default, deserialize_with = "null::as_default")]
    pub staged: bool,
    /// Whether the working tree is; it is too when neither flag is given.
    #[serde(default, deserialize_with = "null::as_default")]
    pub worktree: bool,
    /// Revision to take the content from, instead of the index (or of `HEAD` for the index).
    #[serde(default, deserialize_with = "null::as_default")]
    pub source: String,
}

/// Which of git's configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigScope {
    /// The user's.
    #[default]
    Global,
    /// The repository's.
    Local,
    /// The machine's.
    System,
}

/// `POST /git/config`.
#[derive(Debug, Clone, Deserialize)]
pub struct SetConfigRequest {
    /// Key with its section, such as `user.name`.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// Which file.
    #[serde(default, deserialize_with = "null::as_default")]
    pub scope: ConfigScope,
    /// Repository root, for the local scope.
    #[serde(default, deserialize_with = "null::as_default")]
    pub path: String,
}

/// `POST /git/config/user`.
#[derive(Debug, Clone, Deserialize)]
pub struct ConfigureUserRequest {
    /// `user.name`.
    pub name: String,
    /// `user.email`.
    pub email: String,
    /// Which file.
    #[serde(default, deserialize_with = "null::as_default")]
    pub scope: ConfigScope,
    /// Repository root, for the local scope.
    #[serde(default, deserialize_with = "null::as_default")]
    pub path: String,
}

/// Answer of `GET /git/config`.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigResponse {
    /// The value; `null` when it is unset.
    pub value: Option<String>,
}

/// `POST /git/credentials`.
#[derive(Debug, Clone, Deserialize)]
pub struct AuthenticateRequest {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: Secret,
    /// Host; `github.com` when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub host: String,
    /// Protocol; `https` when absent.
    #[serde(default, deserialize_with = "null::as_default")]
    pub protocol: String,
}

/// Answer of `GET /git/branches`.
#[derive(Debug, Clone, Serialize)]
pub struct BranchList {
    /// Local branches, by name.
    pub branches: Vec<String>,
    /// The current one; empty when `HEAD` is detached.
    pub current: String,
}

/// A remote.
#[derive(Debug, Clone, Serialize)]
pub struct Remote {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
}

/// Answer of `GET /git/remotes`.
#[derive(Debug, Clone, Serialize)]
pub struct RemoteList {
    /// The remotes, by name.
    pub remotes: Vec<Remote>,
}

/// One commit of `GET /git/history`.
#[derive(Debug, Clone, Serialize)]
pub struct CommitInfo {
    /// The commit's id.
    pub hash: String,
    /// The author's name.
    pub author: String,
    /// The author's address.
    pub email: String,
    /// The whole message.
    pub message: String,
    /// When it was authored, RFC 3339 with the author's offset.
    pub timestamp: String,
}

/// Answer of `GET /git/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Short name of the branch; `HEAD` when detached.
    pub current_branch: String,
    /// Every file that is not unmodified.
    pub file_status: Vec<FileStatus>,
    /// Whether an upstream is configured.
    pub branch_published: bool,
    /// Commits that the upstream lacks.
    pub ahead: usize,
    /// Commits that only the upstream has.
    pub behind: usize,
    /// Whether `HEAD` is not on a branch.
    pub detached: bool,
    /// The upstream's short name, such as `origin/main`; empty when unset.
    pub upstream: String,
}

/// A file's state in the index and in the working tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Path relative to the root.
    pub name: String,
    /// Former path of a renamed or copied file, else empty.
    pub extra: String,
    /// Index against `HEAD`.
    pub staging: State,
    /// Working tree against the index.
    pub worktree: State,
}

/// States of a file, with the contract's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum State {
    /// As it was.
    Unmodified,
    /// Unknown to git.
    Untracked,
    /// Changed, or of another type.
    Modified,
    /// New.
    Added,
    /// Gone.
    Deleted,
    /// Moved.
    Renamed,
    /// Copied.
    Copied,
    /// In conflict.
    #[serde(rename = "Updated but unmerged")]
    Unmerged,
}
