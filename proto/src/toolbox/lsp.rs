//! Requests and responses of the toolbox's language server routes (toolbox contract, section 13).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `POST /lsp/start` and `/lsp/stop`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerRequest {
    /// `python`, `typescript` or `javascript`.
    pub language_id: String,
    /// The project's root.
    pub path_to_project: String,
}

/// `POST /lsp/did-open` and `/lsp/did-close`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentRequest {
    /// Which language's server.
    pub language_id: String,
    /// Which project's server.
    pub path_to_project: String,
    /// The document: `file://` and a path, which may be relative.
    pub uri: String,
}

/// `POST /lsp/completions`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionRequest {
    /// Which language's server.
    pub language_id: String,
    /// Which project's server.
    pub path_to_project: String,
    /// The document.
    pub uri: String,
    /// Where in it.
    pub position: Position,
    /// What set the completion off.
    pub context: Option<CompletionContext>,
}

/// A place in a document; both count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// UTF-16 code units before it in its line.
    pub character: u32,
}

/// A part of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins.
    pub start: Position,
    /// Where it has ended.
    pub end: Position,
}

/// What set a completion off.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionContext {
    /// 1 a person, 2 a character, 3 an incomplete list before.
    pub trigger_kind: u32,
    /// The character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_character: Option<String>,
}

/// Answer of `POST /lsp/completions`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionList {
    /// Whether typing on may give others.
    pub is_incomplete: bool,
    /// The completions; never `null`.
    pub items: Vec<CompletionItem>,
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionItem {
    /// What is shown.
    pub label: String,
    /// The protocol's `CompletionItemKind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<u32>,
    /// More about it, such as its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// An object with `kind` and `value`: clients reject a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documentation: Option<Value>,
    /// What it is sorted by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort_text: Option<String>,
    /// What it is filtered by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_text: Option<String>,
    /// What is inserted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insert_text: Option<String>,
}

/// A symbol of a document or of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Symbol {
    /// The protocol's `SymbolKind`.
    pub kind: u32,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub location: Location,
}

/// A place in some document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The document.
    pub uri: String,
    /// The place.
    pub range: Range,
}
