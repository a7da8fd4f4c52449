//! Control-plane shapes: snapshots, the named and sized templates of sandboxes (control-plane contract 4.3, 13).

use serde::{Deserialize, Serialize};

use super::sandbox::{BuildInfo, CreateBuildInfo, words};

words! {
    /// Where a snapshot stands.
    SnapshotState {
        /// Its image is being built.
        Building => "building",
        /// Waits for its image.
        Pending => "pending",
        /// Its image is being pulled.
        Pulling => "pulling",
        /// Usable.
        Active => "active",
        /// Put aside; activate it to use it again.
        Inactive => "inactive",
        /// Its image could not be had.
        Error => "error",
        /// Its image could not be built.
        BuildFailed => "build_failed",
        /// Going.
        Removing => "removing",
    }
}

/// A snapshot as clients read it. Nullable members are present as null, as clients demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the contract's table 4.3 is the documentation; names are its own")]
pub struct Snapshot {
    pub id: String,
    pub organization_id: String,
    pub general: bool,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    pub state: SnapshotState,
    pub size: Option<f64>,
    pub entrypoint: Option<Vec<String>>,
    pub cpu: u32,
    pub gpu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    pub mem: u32,
    pub disk: u32,
    pub error_reason: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    pub last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_info: Option<BuildInfo>,
    pub region_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_runner_id: Option<String>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub source_sandbox_id: Option<String>,
    pub sandbox_class: String,
}

/// Body of `POST /snapshots`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the contract's 13.2 is the documentation; names are its own")]
pub struct CreateSnapshot {
    pub name: Option<String>,
    pub image_name: Option<String>,
    pub build_info: Option<CreateBuildInfo>,
    pub entrypoint: Option<Vec<String>>,
    pub cpu: Option<i64>,
    pub gpu: Option<i64>,
    #[serde(deserialize_with = "crate::null::one_or_many")]
    pub gpu_type: Vec<String>,
    pub memory: Option<i64>,
    pub disk: Option<i64>,
    pub region_id: Option<String>,
    pub sandbox_class: Option<String>,
}

/// A page of snapshots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct PaginatedSnapshots {
    pub items: Vec<Snapshot>,
    pub total: usize,
    pub page: usize,
    pub total_pages: usize,
}

/// Credentials for the object store that takes build contexts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the contract's 14.1 is the documentation; names are its own")]
pub struct StorageAccess {
    pub access_key: String,
    pub secret: String,
    pub session_token: String,
    pub storage_url: String,
    pub organization_id: String,
    pub bucket: String,
    pub region: String,
}
