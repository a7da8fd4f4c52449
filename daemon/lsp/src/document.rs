//! Documents: their paths, their URIs, and the version of the file that a server has seen.
//!
//! SDKs make URIs by putting `file://` before a path as it is, relative or not. Servers get proper ones.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use pinfold_spawn::Sandbox;

use crate::error::LspError;

/// What may not stand in the path of a URI (RFC 3986).
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// No server makes sense of larger sources.
const LARGEST: u64 = 16 << 20;

/// The file that a client's URI or path names.
pub(crate) async fn path(sandbox: &Sandbox, uri: &str) -> PathBuf {
    let text = uri.strip_prefix("file://").unwrap_or(uri);
    let plain = normal(&sandbox.resolve(text));
    if text.contains('%') && !exists(&plain).await {
        let decoded = percent_decode_str(text).decode_utf8_lossy();
        let decoded = normal(&sandbox.resolve(&*decoded));
        if exists(&decoded).await {
            return decoded;
        }
    }
    plain
}

async fn exists(path: &Path) -> bool {
    tokio::fs::try_exists(path).await.unwrap_or(false)
}

/// Without `.` and `..`, which servers take for other files.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(normal.pop()),
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// A path's URI.
pub(crate) fn uri(path: &Path) -> String {
    format!("file://{}", utf8_percent_encode(&path.to_string_lossy(), PATH))
}

/// A file as it was when a server got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

/// A file's stamp and text.
pub(crate) async fn read(path: &Path) -> Result<(Stamp, String), LspError> {
    let unreadable = |reason: String| LspError::Unreadable { path: path.display().to_string(), reason };
    let stamp = stamp(path).await?;
    if stamp.length > LARGEST {
        return Err(unreadable("it is too large".to_owned()));
    }
    let bytes = tokio::fs::read(path).await.map_err(|error| unreadable(error.to_string()))?;
    Ok((stamp, String::from_utf8_lossy(&bytes).into_owned()))
}

/// The file as it is now.
pub(crate) async fn stamp(path: &Path) -> Result<Stamp, LspError> {
    let unreadable = |reason: String| LspError::Unreadable { path: path.display().to_string(), reason };
    let file = tokio::fs::metadata(path).await.map_err(|error| unreadable(error.to_string()))?;
    // Opening a FIFO would wait for its writer.
    if !file.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    Ok(Stamp { modified: file.modified().ok(), length: file.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_encoded_and_paths_are_normal() {
        assert_eq!(uri(Path::new("/a b/ä#.py")), "file:///a%20b/%C3%A4%23.py");
        assert_eq!(normal(Path::new("/work/./a/../b.py")), Path::new("/work/b.py"));
    }
}
