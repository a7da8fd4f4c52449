//! The healthcheck a runner posts (runner contract 2.3).

use serde::{Deserialize, Serialize};

/// Body of `POST /runners/healthcheck`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Healthcheck {
    /// The runner's build version.
    pub app_version: String,
    /// Host name or address, without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Base URL of the runner's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// Base URL for proxied sandbox traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// Where the runner's SSH gateway listens, on `domain`; 2220 if absent. An addition of ours: other control planes ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_port: Option<u16>,
    /// What the runner depends on. One unhealthy entry takes the runner out of service.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::null::list")]
    pub service_health: Vec<ServiceHealth>,
    /// The node's figures; absent when one of them could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RunnerMetrics>,
}

/// One service the runner depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceHealth {
    /// `docker`, …
    pub service_name: String,
    /// Whether it can be used.
    pub healthy: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
}

/// The twelve figures of a node, and its GPUs. Every number is finite and not negative; totals are positive.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunnerMetrics {
    /// Load average ÷ CPUs: a ratio, not percent.
    pub current_cpu_load_average: f64,
    /// Percent of all CPUs.
    pub current_cpu_usage_percentage: f64,
    /// Percent, reclaimable cache not counted.
    pub current_memory_usage_percentage: f64,
    /// Percent of the filesystem that holds the engine's data.
    pub current_disk_usage_percentage: f64,
    /// Cores promised to running sandboxes.
    pub current_allocated_cpu: f64,
    /// Memory promised to running sandboxes, GiB.
    #[serde(rename = "currentAllocatedMemoryGiB")]
    pub current_allocated_memory_gib: f64,
    /// Disk promised to all sandboxes, GiB.
    #[serde(rename = "currentAllocatedDiskGiB")]
    pub current_allocated_disk_gib: f64,
    /// Images in the engine's store. An integer on the wire: the API refuses a fraction.
    pub current_snapshot_count: u64,
    /// Running sandboxes. An integer on the wire.
    pub current_started_sandboxes: u64,
    /// CPUs this node has, or the CPUs its cgroup limits it to.
    pub cpu: f64,
    /// Memory this node has, GiB.
    #[serde(rename = "memoryGiB")]
    pub memory_gib: f64,
    /// Size of the filesystem that holds the engine's data, GiB.
    #[serde(rename = "diskGiB")]
    pub disk_gib: f64,
    /// Number of GPUs, when there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
    /// Model of the first GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
}
