//! Jobs: how a control plane asks a runner for work, and how the runner answers (runner contract, section 3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job's identifier; a job may be delivered twice, and this is what tells.
    pub id: String,
    /// What to do.
    #[serde(rename = "type")]
    pub kind: JobKind,
    /// Where the job stands.
    pub status: JobStatus,
    /// `SANDBOX`, `SNAPSHOT` or `VOLUME`.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub resource_type: String,
    /// The sandbox id, an image reference, or the volume's id.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub resource_id: String,
    /// JSON **as a string**.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// W3C trace headers; values that are not strings are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_context: Option<BTreeMap<String, Value>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

macro_rules! job_kinds {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)*) => {
        /// What a job asks for. An unknown kind decodes, so that it fails alone and not its whole batch.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum JobKind {
            $($(#[$doc])* $variant,)*
            /// A kind that this version does not know.
            Unknown(String),
        }

        impl JobKind {
            /// The kind's name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown(text) => text,
                }
            }
        }

        impl From<String> for JobKind {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)*
                    _ => Self::Unknown(text),
                }
            }
        }
    };
}

job_kinds! {
    /// Create and start a sandbox.
    CreateSandbox => "CREATE_SANDBOX",
    /// Start a stopped sandbox.
    StartSandbox => "START_SANDBOX",
    /// Stop a sandbox.
    StopSandbox => "STOP_SANDBOX",
    /// Remove a sandbox.
    DestroySandbox => "DESTROY_SANDBOX",
    /// Change limits.
    ResizeSandbox => "RESIZE_SANDBOX",
    /// Commit and push a sandbox.
    CreateBackup => "CREATE_BACKUP",
    /// Give a sandbox that ran out of storage some more.
    RecoverSandbox => "RECOVER_SANDBOX",
    /// Replace the network policy.
    UpdateSandboxNetworkSettings => "UPDATE_SANDBOX_NETWORK_SETTINGS",
    /// Make a snapshot of a sandbox.
    SnapshotSandbox => "SNAPSHOT_SANDBOX",
    /// Build an image.
    BuildSnapshot => "BUILD_SNAPSHOT",
    /// Pull an image.
    PullSnapshot => "PULL_SNAPSHOT",
    /// Remove an image.
    RemoveSnapshot => "REMOVE_SNAPSHOT",
    /// Remove the directory of a deleted volume. Ours alone: no v0.190 runner knows it, and only control planes of ours send it.
    RemoveVolume => "REMOVE_VOLUME",
    /// Ask a registry for digest and size.
    InspectSnapshotInRegistry => "INSPECT_SNAPSHOT_IN_REGISTRY",
    /// Unsupported for containers.
    PauseSandbox => "PAUSE_SANDBOX",
    /// Unsupported for containers.
    ForkSandbox => "FORK_SANDBOX",
}

impl From<JobKind> for String {
    fn from(kind: JobKind) -> Self {
        kind.as_str().to_owned()
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// Not claimed.
    Pending,
    /// Claimed by its runner.
    InProgress,
    /// Done.
    Completed,
    /// Failed, with a message.
    Failed,
}

impl JobStatus {
    /// The status's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }

    /// Whether a job may go from `self` to `next` (runner contract 3.4).
    pub fn may_become(self, next: Self) -> bool {
        use JobStatus::{Completed, Failed, InProgress, Pending};
        self == next
            || matches!((self, next), (Pending, InProgress | Failed) | (InProgress, Completed | Failed))
    }
}

/// Answer to `GET /jobs/poll`. Jobs stay undecoded so that one bad job cannot spoil the batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PollResponse {
    /// The claimed jobs.
    #[serde(default, deserialize_with = "crate::null::list")]
    pub jobs: Vec<Value>,
}

/// Answer to `GET /jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobPage {
    /// The jobs of this page.
    #[serde(default, deserialize_with = "crate::null::list")]
    pub items: Vec<Value>,
    /// Number of jobs on all pages.
    pub total: u64,
    /// This page, from 1.
    pub page: u64,
    /// Number of pages.
    pub total_pages: u64,
}

/// Body of `POST /jobs/{id}/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusUpdate {
    /// The new status.
    pub status: JobStatus,
    /// Why it failed. Never empty for a failure: an empty text leaves the sandbox in `creating`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// JSON **as a string**.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_metadata: Option<String>,
}
