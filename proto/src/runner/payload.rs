//! Job payloads, which are also the bodies of the runner's push-mode HTTP routes (runner contract 3.6 and 4.4–4.18).
//!
//! Every field tolerates `null`; unknown fields are ignored. Sizes are cores and GiB.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::Secret;

/// Credentials and place of an image registry.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Host, port and path, usually without a scheme.
    #[serde(deserialize_with = "crate::null::as_default")]
    pub url: String,
    /// Project below the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Used only together with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Used only together with a user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

impl Registry {
    /// User name and password, when both are given and not empty.
    pub fn credentials(&self) -> Option<(&str, &Secret)> {
        let username = self.username.as_deref().filter(|u| !u.is_empty())?;
        let password = self.password.as_ref().filter(|p| !p.is_empty())?;
        Some((username, password))
    }
}

/// A volume mounted into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume; checked to be a UUID before it becomes a path.
    pub volume_id: String,
    /// Absolute path inside the sandbox.
    pub mount_path: String,
    /// Directory inside the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
}

/// `CREATE_SANDBOX`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the contract's table 4.4 is the documentation; names are its own")]
pub struct CreateSandbox {
    #[serde(deserialize_with = "crate::null::as_default")]
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub user_id: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub snapshot: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub os_user: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub cpu_quota: u32,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub gpu_quota: u32,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub memory_quota: u32,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub storage_quota: u32,
    #[serde(deserialize_with = "crate::null::string_map")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::null::list")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "crate::null::list")]
    pub volumes: Vec<VolumeMount>,
    pub network_block_all: Option<bool>,
    pub network_allow_list: Option<String>,
    pub domain_allow_list: Option<String>,
    #[serde(deserialize_with = "crate::null::string_map")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linked_sandbox_id: Option<String>,
}

/// Result of `CREATE_SANDBOX` and `START_SANDBOX`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Started {
    /// The version the daemon answered with; empty when the sandbox was not started.
    #[serde(deserialize_with = "crate::null::as_default")]
    pub daemon_version: String,
}

/// `START_SANDBOX`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartSandbox {
    /// A new token on each start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<Secret>,
    /// Used keys: `volumes` (JSON text of a list of [`VolumeMount`]), `limitNetworkEgress`, `domainAllowList`.
    #[serde(deserialize_with = "crate::null::string_map")]
    pub metadata: BTreeMap<String, String>,
}

/// `STOP_SANDBOX`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StopSandbox {
    /// Kill at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// `RESIZE_SANDBOX`: only the fields that change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResizeSandbox {
    /// Cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u32>,
    /// For pulling the sandbox's image again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
}

/// `CREATE_BACKUP`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateBackup {
    /// The reference to commit to and push.
    #[serde(deserialize_with = "crate::null::as_default")]
    pub snapshot: String,
    /// Where to push.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
}

/// `RECOVER_SANDBOX`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the contract's table 4.12 is the documentation; names are its own")]
pub struct RecoverSandbox {
    #[serde(deserialize_with = "crate::null::as_default")]
    pub user_id: String,
    pub snapshot: Option<String>,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub os_user: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub cpu_quota: u32,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub gpu_quota: u32,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub memory_quota: u32,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub storage_quota: u32,
    #[serde(deserialize_with = "crate::null::string_map")]
    pub env: BTreeMap<String, String>,
    #[serde(deserialize_with = "crate::null::list")]
    pub volumes: Vec<VolumeMount>,
    pub network_block_all: Option<bool>,
    pub network_allow_list: Option<String>,
    pub error_reason: Option<String>,
    pub backup_error_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_start: Option<bool>,
}

/// `UPDATE_SANDBOX_NETWORK_SETTINGS`: the whole desired policy; a missing list means cleared (runner contract 17.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSettings {
    /// Drop everything that leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_block_all: Option<bool>,
    /// Comma-separated IPv4 CIDRs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_allow_list: Option<String>,
    /// Comma-separated host names; a leading `*.` is a wildcard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_allow_list: Option<String>,
    /// Mark for the operator's traffic shaping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_limit_egress: Option<bool>,
}

/// `SNAPSHOT_SANDBOX`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct SnapshotSandbox {
    #[serde(deserialize_with = "crate::null::as_default")]
    pub sandbox_id: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub name: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub organization_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_memory: Option<bool>,
}

/// `BUILD_SNAPSHOT`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the contract's 4.15 is the documentation; names are its own")]
pub struct BuildSnapshot {
    #[serde(deserialize_with = "crate::null::as_default")]
    pub snapshot: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub dockerfile: String,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub organization_id: String,
    #[serde(deserialize_with = "crate::null::list")]
    pub context: Vec<String>,
    #[serde(deserialize_with = "crate::null::as_default")]
    pub push_to_internal_registry: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::null::list")]
    pub source_registries: Vec<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
}

/// `PULL_SNAPSHOT`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the contract's 4.14 is the documentation; names are its own")]
pub struct PullSnapshot {
    #[serde(deserialize_with = "crate::null::as_default")]
    pub snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_ref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_class: Option<String>,
}

/// `INSPECT_SNAPSHOT_IN_REGISTRY`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InspectSnapshot {
    /// The reference.
    #[serde(deserialize_with = "crate::null::as_default")]
    pub snapshot: String,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
}

/// Result of a build, a pull, and `GET /snapshots/info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotInfo {
    /// The reference that was asked for.
    pub name: String,
    /// Unpacked size, GiB.
    #[serde(rename = "sizeGB")]
    pub size_gb: f64,
    /// The image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Hex digest, without `sha256:`.
    pub hash: String,
}

/// Result of `SNAPSHOT_SANDBOX`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct SandboxSnapshot {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub hash: String,
    #[serde(rename = "sizeGB")]
    pub size_gb: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
}

/// Result of `INSPECT_SNAPSHOT_IN_REGISTRY`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistryInfo {
    /// Hex digest, without `sha256:`.
    pub hash: String,
    /// Compressed size, GiB.
    #[serde(rename = "sizeGB")]
    pub size_gb: f64,
}
