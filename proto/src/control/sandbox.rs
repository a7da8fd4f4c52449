//! Control-plane shapes: sandboxes (control-plane contract 4.1, 4.5, 6.1).
//!
//! Answers are the newest clients' superset: sizes are integers, `kvm` and `networkBlockAll` are always there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::runner::payload::VolumeMount;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// The word on the wire and in the store.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The member with this word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What a sandbox is observed to be. Clients recognise exactly these words.
    SandboxState {
        /// Being created.
        Creating => "creating",
        /// Being brought back from the archive.
        Restoring => "restoring",
        /// Gone.
        Destroyed => "destroyed",
        /// Going.
        Destroying => "destroying",
        /// Running.
        Started => "started",
        /// Not running.
        Stopped => "stopped",
        /// Being started.
        Starting => "starting",
        /// Being stopped.
        Stopping => "stopping",
        /// Failed, with a reason.
        Error => "error",
        /// Its image could not be built.
        BuildFailed => "build_failed",
        /// Waits for its image.
        PendingBuild => "pending_build",
        /// Its image is being built.
        BuildingSnapshot => "building_snapshot",
        /// Nobody knows.
        Unknown => "unknown",
        /// Its image is being pulled.
        PullingSnapshot => "pulling_snapshot",
        /// In the archive, without a runner.
        Archived => "archived",
        /// On its way to the archive.
        Archiving => "archiving",
        /// Its limits are being changed.
        Resizing => "resizing",
        /// A snapshot of it is being made.
        Snapshotting => "snapshotting",
        /// A copy of it is being made.
        Forking => "forking",
        /// Being paused.
        Pausing => "pausing",
        /// Paused.
        Paused => "paused",
        /// Being resumed.
        Resuming => "resuming",
    }
}

words! {
    /// What a user wants a sandbox to be.
    DesiredState {
        /// Gone.
        Destroyed => "destroyed",
        /// Running.
        Started => "started",
        /// Not running.
        Stopped => "stopped",
        /// In the archive.
        Archived => "archived",
    }
}

words! {
    /// Where a sandbox's backup stands.
    BackupState {
        /// There is none of what the sandbox is now.
        None => "None",
        /// It waits for its runner.
        Pending => "Pending",
        /// It is being made.
        InProgress => "InProgress",
        /// It is there.
        Completed => "Completed",
        /// The latest one failed.
        Error => "Error",
    }
}

#[expect(
    clippy::derivable_impls,
    reason = "the words' macro derives for all alike, and has no place for a default"
)]
impl Default for BackupState {
    fn default() -> Self {
        Self::None
    }
}

/// A sandbox as every client reads it. Also sent as an item of lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the contract's table 4.1 is the documentation; names are its own")]
pub struct Sandbox {
    pub id: String,
    pub organization_id: String,
    pub name: String,
    pub target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    pub user: String,
    pub env: BTreeMap<String, String>,
    pub cpu: u32,
    pub gpu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    pub memory: u32,
    pub disk: u32,
    pub public: bool,
    pub network_block_all: bool,
    pub kvm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_allow_list: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_allow_list: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub volumes: Vec<VolumeMount>,
    pub state: SandboxState,
    pub desired_state: DesiredState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    pub recoverable: bool,
    pub backup_state: BackupState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_created_at: Option<String>,
    pub auto_stop_interval: i64,
    pub auto_archive_interval: i64,
    pub auto_delete_interval: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_destroy_at: Option<String>,
    pub sandbox_class: String,
    pub created_at: String,
    pub updated_at: String,
    pub last_activity_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_info: Option<BuildInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linked_sandbox_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_pool_id: Option<String>,
    pub toolbox_proxy_url: String,
}

/// How an image was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct BuildInfo {
    pub dockerfile_content: String,
    pub context_hashes: Vec<String>,
    pub created_at: String,
    pub updated_at: String,
    pub snapshot_ref: String,
}

/// How an image shall be made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateBuildInfo {
    /// The Dockerfile's text.
    #[serde(deserialize_with = "crate::null::as_default")]
    pub dockerfile_content: String,
    /// Object-store keys of the context's parts.
    #[serde(deserialize_with = "crate::null::list")]
    pub context_hashes: Vec<String>,
}

/// Body of `POST /sandbox`. Every field may be missing or null; unknown fields are ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the contract's table 6.1 is the documentation; names are its own")]
pub struct CreateSandbox {
    pub name: Option<String>,
    pub snapshot: Option<String>,
    pub user: Option<String>,
    #[serde(deserialize_with = "crate::null::string_map")]
    pub env: BTreeMap<String, String>,
    #[serde(deserialize_with = "crate::null::string_map")]
    pub labels: BTreeMap<String, String>,
    pub public: Option<bool>,
    pub network_block_all: Option<bool>,
    pub network_allow_list: Option<String>,
    pub domain_allow_list: Option<String>,
    pub target: Option<String>,
    pub cpu: Option<i64>,
    pub gpu: Option<i64>,
    #[serde(deserialize_with = "crate::null::one_or_many")]
    pub gpu_type: Vec<String>,
    pub memory: Option<i64>,
    pub disk: Option<i64>,
    pub auto_stop_interval: Option<i64>,
    pub auto_archive_interval: Option<i64>,
    pub auto_delete_interval: Option<i64>,
    #[serde(deserialize_with = "crate::null::list")]
    pub volumes: Vec<VolumeMount>,
    pub build_info: Option<CreateBuildInfo>,
    pub linked_sandbox: Option<String>,
    pub ttl_minutes: Option<i64>,
    pub auto_pause_interval: Option<i64>,
    pub kvm: Option<bool>,
    pub spot: Option<bool>,
    pub outbound_proxy_url: Option<String>,
    #[serde(deserialize_with = "crate::null::list")]
    pub secrets: Vec<Value>,
    pub sandbox_class: Option<String>,
}

/// A link to a port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct PortPreviewUrl {
    pub sandbox_id: String,
    pub url: String,
    pub token: String,
}

/// A link to a port of a sandbox that carries its own credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct SignedPortPreviewUrl {
    pub sandbox_id: String,
    pub port: u16,
    pub token: String,
    pub url: String,
}

/// An SSH credential for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct SshAccess {
    pub id: String,
    pub sandbox_id: String,
    pub token: String,
    pub expires_at: String,
    pub created_at: String,
    pub updated_at: String,
    pub ssh_command: String,
}

/// Whether an SSH credential is good. `sandboxId` is empty, never null, when it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct SshAccessValidation {
    pub valid: bool,
    pub sandbox_id: String,
}

/// An address alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Url {
    /// The address.
    pub url: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_of_the_newest_sdk_decodes() {
        let body = r#"{"env":{},"labels":{"code-toolbox-language":"python"},"cpu":1,"volumes":[],"name":null,"new":1,
            "buildInfo":{"dockerfileContent":"FROM a:1\n","contextHashes":null}}"#;
        let create: CreateSandbox = serde_json::from_str(body).unwrap();
        assert_eq!((create.cpu, create.memory, create.name), (Some(1), None, None));
        assert_eq!(create.build_info.unwrap().dockerfile_content, "FROM a:1\n");
    }

    #[test]
    fn words_round_trip() {
        for word in ["pending_build", "started", "pulling_snapshot"] {
            assert_eq!(SandboxState::from_word(word).unwrap().as_str(), word);
        }
        assert_eq!(SandboxState::from_word("running"), None);
    }
}
