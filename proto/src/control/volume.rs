//! Control-plane shapes: volumes (control-plane contract 4.3, 15).

use serde::{Deserialize, Serialize};

/// A volume as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "names are the contract's own")]
pub struct Volume {
    pub id: String,
    pub name: String,
    pub organization_id: String,
    pub state: String,
    pub created_at: String,
    pub updated_at: String,
    pub last_used_at: Option<String>,
    pub error_reason: Option<String>,
}

/// Body of `POST /volumes`. Without a name the volume is named by its id.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CreateVolume {
    /// The wanted name.
    pub name: Option<String>,
}
