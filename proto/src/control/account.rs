//! Control-plane shapes: API keys and regions (control-plane contract 4.3). What is static is composed where it is served.

use serde::{Deserialize, Serialize};

/// An API key as it is listed: its value is masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct ApiKey {
    pub name: String,
    pub value: String,
    pub created_at: String,
    pub permissions: Vec<String>,
    pub last_used_at: Option<String>,
    pub expires_at: Option<String>,
    pub user_id: String,
    pub organization_id: String,
}

/// Body of `POST /api-keys`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct CreateApiKey {
    pub name: String,
    #[serde(deserialize_with = "crate::null::list")]
    pub permissions: Vec<String>,
    pub expires_at: Option<String>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct Region {
    pub id: String,
    pub name: String,
    pub organization_id: Option<String>,
    pub region_type: String,
    pub created_at: String,
    pub updated_at: String,
    pub proxy_url: Option<String>,
    pub ssh_gateway_url: Option<String>,
    pub snapshot_manager_url: Option<String>,
}

/// Body of `POST /runners`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct CreateRunner {
    pub region_id: Option<String>,
    pub name: Option<String>,
    #[serde(deserialize_with = "crate::null::list")]
    pub tags: Vec<String>,
}
