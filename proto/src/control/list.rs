//! Control-plane shapes: pages of sandboxes (control-plane contract 8).

use serde::{Deserialize, Serialize};

use super::sandbox::Sandbox;

/// Answer to `GET /sandbox`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxPage {
    /// This page's sandboxes.
    pub items: Vec<Sandbox>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Answer to `GET /sandbox/paginated`, which 2025-era clients call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct PaginatedSandboxes {
    pub items: Vec<Sandbox>,
    pub total: usize,
    pub page: usize,
    pub total_pages: usize,
}
