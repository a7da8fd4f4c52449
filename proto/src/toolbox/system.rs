//! Requests and responses of the toolbox's system routes (toolbox contract 4 and 14).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Such as `v1.2.3`.
    pub version: String,
}

/// `GET /work-dir`, `/user-home-dir` and `/project-dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// An absolute path.
    pub dir: String,
}

/// `POST /init`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// The token that telemetry is sent with. It is no password of this API.
    #[serde(default, deserialize_with = "crate::null::as_default", skip_serializing_if = "String::is_empty")]
    pub token: String,
}

/// An answer that only says what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What was done.
    pub message: String,
}

/// `POST /env`: changes what processes started from now on see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateEnvironment {
    /// Variables to set; applied last.
    #[serde(default, deserialize_with = "crate::null::string_map")]
    pub set: BTreeMap<String, String>,
    /// Names to remove; applied first.
    #[serde(default, deserialize_with = "crate::null::list")]
    pub unset: Vec<String>,
    /// Variables whose value starts with this go too, unless `set` names them.
    #[serde(default)]
    pub unset_value_prefix: Option<String>,
}

/// `GET /system/metrics`. Sizes are bytes; what cannot be measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Processors, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    /// Percentage of the CPU limit used over the last window, 0–100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_used_pct: Option<f64>,
    /// The memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_total: Option<u64>,
    /// Memory in use, page cache not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_used: Option<u64>,
    /// Page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_cache: Option<u64>,
    /// Size of the file system at `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total: Option<u64>,
    /// Used of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used: Option<u64>,
    /// Free of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free: Option<u64>,
    /// When, RFC 3339.
    pub timestamp: String,
    /// When, seconds since 1970.
    pub timestamp_unix: i64,
}

/// `GET /port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Listening TCP ports of either family.
    pub ports: Vec<u16>,
}

/// `GET /port/{port}/in-use`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortInUse {
    /// Whether something listens there.
    pub is_in_use: bool,
}

/// A screen recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// A UUID.
    pub id: String,
    /// Such as `<id>_demo_20260504_101112.mp4`.
    pub file_name: String,
    /// Its absolute path.
    pub file_path: String,
    /// RFC 3339.
    pub start_time: String,
    /// RFC 3339; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    /// `recording`, `completed` or `failed`.
    pub status: String,
    /// Absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Absent while it grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// `GET /computeruse/recordings`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordingList {
    /// The oldest first.
    pub recordings: Vec<Recording>,
}

/// `POST /computeruse/recordings/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecording {
    /// Becomes part of the file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// `POST /computeruse/recordings/stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecording {
    /// Which.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub id: String,
}

/// `DELETE /api/recordings` of the dashboard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRecordings {
    /// Which.
    pub ids: Vec<String>,
}

/// The answer to [`DeleteRecordings`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRecordings {
    /// Gone.
    pub deleted: Vec<String>,
    /// Unknown, active, or not removable.
    pub failed: Vec<String>,
}
