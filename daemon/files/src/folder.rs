//! `POST /files/folder`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use axum::extract::State;
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_spawn::Sandbox;
use rustix::io::Errno;

use crate::error::{DENIED, INVALID_PATH, Kind, kind, reason};
use crate::{blocking, mode};

/// Creates a directory and all that is missing above it. One that exists keeps its mode.
pub(crate) async fn create(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<StatusCode> {
    let path = sandbox.resolve(query.required("path")?);
    let mode = mode::parse(query.get("mode").filter(|m| !m.is_empty()).unwrap_or("0755"))?;
    blocking(move || create_all(&path, mode & 0o777).map_err(|error| refused(&path, &error))).await?;
    Ok(StatusCode::CREATED)
}

/// Creates `path` with its parents, each with `mode` less the umask.
pub(crate) fn create_all(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        // Something else has the name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Errno::NOTDIR.into()),
        other => other,
    }
}

/// This route knows only one error status; the code still tells them apart.
fn refused(path: &Path, error: &io::Error) -> ApiError {
    let answer = ApiError::bad_request(format_args!("create folder: {}: {}", reason(error), path.display()));
    match kind(error) {
        Kind::Denied => answer.code(DENIED),
        Kind::Path => answer.code(INVALID_PATH),
        _ => answer,
    }
}
