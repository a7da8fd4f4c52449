//! `DELETE /files`.

use std::path::{Path, PathBuf};

use axum::extract::State;
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_spawn::Sandbox;

use crate::blocking;
use crate::error::{failed, invalid_path};

/// Directories without which a sandbox is none.
const KEPT: [&str; 4] = ["/", "/proc", "/sys", "/dev"];

/// Removes a file, a link (never its target) or, with `recursive=true`, a tree.
pub(crate) async fn delete(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<StatusCode> {
    let path = sandbox.resolve(query.required("path")?);
    let recursive = query.flag("recursive");
    blocking(move || remove(&path, recursive)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn remove(path: &Path, recursive: bool) -> ApiResult<()> {
    let metadata = std::fs::symlink_metadata(path).map_err(|error| failed("delete", path, &error))?;
    if !metadata.is_dir() {
        return std::fs::remove_file(path).map_err(|error| failed("delete", path, &error));
    }
    if !recursive {
        return Err(invalid_path(format_args!(
            "delete: {} is a directory; deleting it needs recursive=true",
            path.display()
        )));
    }
    let real = path.canonicalize().map_err(|error| failed("delete", path, &error))?;
    if KEPT.iter().any(|kept| real == PathBuf::from(kept)) {
        return Err(ApiError::bad_request(format_args!("delete: refusing to delete {}", real.display())));
    }
    std::fs::remove_dir_all(path).map_err(|error| failed("delete", path, &error))
}
