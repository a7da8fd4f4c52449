//! Requests and responses of the toolbox's files routes (toolbox contract 5).

use serde::{Deserialize, Serialize};

/// `GET /files/info`, and one entry of `GET /files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileInfo {
    /// Last path element as given: of a symlink, not of its target.
    pub name: String,
    /// Full path of the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Type letters, then nine `rwx` letters: `-rw-r--r--`, `dtrwxrwxrwx`.
    pub mode: String,
    /// `YYYY-MM-DD HH:MM:SS[.fraction] ±hhmm ZONE` in the local zone. Deprecated in favour of `modified_at`.
    pub mod_time: String,
    /// RFC 3339.
    pub modified_at: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Numeric user id.
    pub owner: String,
    /// Numeric group id.
    pub group: String,
    /// Four octal digits of the low nine mode bits.
    pub permissions: String,
    /// Name of the owner, if the sandbox knows one. Not in the original contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_name: Option<String>,
    /// Name of the group, if the sandbox knows one. Not in the original contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
}

/// One line found by `GET /files/find`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The file, below the path that was asked for.
    pub file: String,
    /// Line number, from 1.
    pub line: u64,
    /// The line without its end.
    pub content: String,
}

/// `POST /files/replace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplaceRequest {
    /// Files to change.
    pub files: Vec<String>,
    /// Literal text to look for. Must not be empty.
    pub pattern: String,
    /// What every occurrence becomes. May be empty, but must be there.
    pub new_value: String,
}

/// What became of one file of `POST /files/replace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceResult {
    /// The file as it was asked for.
    pub file: String,
    /// Whether the file is as it should be, changed or not.
    pub success: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `POST /files/bulk-download`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// Files, in the order of the parts that answer.
    #[serde(default, deserialize_with = "crate::null::list")]
    pub paths: Vec<String>,
}

/// `POST /files/bulk-upload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkUpload {
    /// What was written.
    pub files: Vec<WrittenFile>,
}

/// One file of [`BulkUpload`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// The path as it was asked for.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// `POST /files/upload-v2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// Last path element.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// `file`.
    pub r#type: String,
}

/// `POST /files/move` when the source was copied but could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveWarning {
    /// What was done.
    pub message: String,
    /// What was not.
    pub error: String,
}
