//! `POST /files/move`.

use std::io;
use std::path::Path;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::toolbox::files::MoveWarning;
use pinfold_spawn::Sandbox;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{failed, reason};
use crate::{blocking, copy};

/// Renames; between file systems, copies and then deletes the source.
pub(crate) async fn relocate(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Response> {
    let source = sandbox.resolve(query.required("source")?);
    let destination = sandbox.resolve(query.required("destination")?);
    let warning = blocking(move || run(&source, &destination)).await?;
    Ok(warning.map_or_else(|| StatusCode::OK.into_response(), |warning| Json(warning).into_response()))
}

fn run(source: &Path, destination: &Path) -> ApiResult<Option<MoveWarning>> {
    std::fs::symlink_metadata(source).map_err(|error| failed("move", source, &error))?;
    let parent = destination.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/"));
    std::fs::metadata(parent).map_err(|error| failed("move to", parent, &error))?;
    match rename(source, destination) {
        Ok(()) => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
            copy_over(source, destination, parent)
        }
        Err(error) => Err(refused(source, destination, &error)),
    }
}

/// Copies to a temporary name beside the destination, so that the destination is there whole or not at all.
fn copy_over(source: &Path, destination: &Path, parent: &Path) -> ApiResult<Option<MoveWarning>> {
    let staging = tempfile::Builder::new()
        .prefix(".pinfold-move-")
        .tempdir_in(parent)
        .map_err(|error| failed("move to", parent, &error))?;
    let staged = staging.path().join("entry");
    copy::tree(source, &staged).map_err(|error| {
        ApiError::bad_request(format_args!(
            "move: copying {}: {}",
            error.path.display(),
            reason(&error.source)
        ))
    })?;
    rename(&staged, destination).map_err(|error| refused(source, destination, &error))?;
    let removed = match std::fs::symlink_metadata(source) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(source),
        Ok(_) => std::fs::remove_file(source),
        Err(error) => Err(error),
    };
    Ok(removed.err().map(|error| MoveWarning {
        message: format!("copied to {}, but the source could not be removed", destination.display()),
        error: format!("{}: {}", reason(&error), source.display()),
    }))
}

/// Renames unless the destination exists.
fn rename(source: &Path, destination: &Path) -> io::Result<()> {
    match renameat_with(CWD, source, CWD, destination, RenameFlags::NOREPLACE) {
        // Some file systems know no flags: the check has to do, with its race.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match std::fs::symlink_metadata(destination) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(_) => std::fs::rename(source, destination),
        },
        other => Ok(other?),
    }
}

fn refused(source: &Path, destination: &Path, error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            ApiError::conflict(format_args!("move: destination already exists: {}", destination.display()))
        }
        // Either directory may be the reason.
        _ => failed(&format!("move {} to", source.display()), destination, error),
    }
}
