//! Workspace symbols, also from servers that have none (pylsp): then from the symbols of the open documents and the project's files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinfold_proto::toolbox::lsp::Symbol;
use serde_json::json;
use tokio::time::Instant;

use crate::answer;
use crate::document;
use crate::error::LspError;
use crate::language::Language;
use crate::server::Server;

/// How long the project's files are asked about, and how many of them.
const SEARCH: Duration = Duration::from_secs(10);
const FILES: usize = 200;
/// Directory entries looked at to find them.
const ENTRIES: usize = 20_000;
/// Other people's code.
const SKIPPED: &[&str] = &["node_modules", "venv", "__pycache__", "site-packages", "target", "dist", "build"];

/// The project's symbols whose names contain `query`, in any case.
pub(crate) async fn symbols(server: &Server, project: &Path, query: &str) -> Result<Vec<Symbol>, LspError> {
    if server.can("workspaceSymbolProvider") {
        match server.request("workspace/symbol", json!({"query": query})).await {
            Ok(found) if found.as_array().is_some_and(|list| !list.is_empty()) => {
                return Ok(answer::symbols(&found, ""));
            }
            // The TypeScript server refuses while no document is open.
            Ok(_) | Err(LspError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let open = server.documents().await;
    let mut found = Vec::new();
    for path in &open {
        found.extend(matching(server, path, query).await?);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let deadline = Instant::now() + SEARCH;
    let open: BTreeSet<_> = open.into_iter().collect();
    for path in files(server.language, project.to_owned()).await {
        if Instant::now() >= deadline {
            tracing::debug!(project = %project.display(), "the search for symbols ended before all files were seen");
            break;
        }
        if !open.contains(&path) {
            found.extend(matching(server, &path, query).await?);
        }
    }
    Ok(found)
}

/// A document's symbols that match. A document that cannot be read, or not understood, has none.
async fn matching(server: &Server, path: &Path, query: &str) -> Result<Vec<Symbol>, LspError> {
    let found = match server.ask("textDocument/documentSymbol", path, json!({})).await {
        Ok(found) => found,
        Err(LspError::Refused { .. } | LspError::Unreadable { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut symbols = answer::symbols(&found, &document::uri(path));
    let query = query.to_lowercase();
    symbols.retain(|symbol| symbol.name.to_lowercase().contains(&query));
    Ok(symbols)
}

/// The project's own files in a language, nearest to its root first.
async fn files(language: &'static Language, project: PathBuf) -> Vec<PathBuf> {
    let walk = move || {
        let mut folders = std::collections::VecDeque::from([project]);
        let (mut files, mut seen) = (Vec::new(), 0);
        while let Some(folder) = folders.pop_front() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                seen += 1;
                if seen > ENTRIES || files.len() >= FILES {
                    return files;
                }
                let Ok(kind) = entry.file_type() else { continue };
                let name = entry.file_name();
                let skipped =
                    name.to_str().is_none_or(|name| name.starts_with('.') || SKIPPED.contains(&name));
                if kind.is_dir() && !skipped {
                    folders.push_back(entry.path());
                } else if kind.is_file() && language.owns(&entry.path()) {
                    files.push(entry.path());
                }
            }
        }
        files
    };
    tokio::task::spawn_blocking(walk).await.unwrap_or_default()
}
