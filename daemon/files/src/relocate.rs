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

use crate::copy::CopyError;
use crate::error::{failed, reason};
use crate::target::is_remote;
use crate::{blocking, copy};

/// Renames; between file systems, and where there are no renames, copies and then deletes the source.
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
        Err(error) => {
            let between = error.raw_os_error() == Some(Errno::XDEV.raw_os_error());
            let remote = is_remote(parent).unwrap_or(false);
            match (between, remote) {
                (true, false) => copy_beside(source, destination, parent)?,
                (true, true) => copy_straight(source, destination)?,
                (false, true) if copy::is_unsupported(&error) => copy_straight(source, destination)?,
                (false, _) => return Err(refused(source, destination, &error)),
            }
            Ok(remove(source, destination))
        }
    }
}

/// Copies to a temporary name beside the destination, so that the destination is there whole or not at all.
fn copy_beside(source: &Path, destination: &Path, parent: &Path) -> ApiResult<()> {
    let staging = tempfile::Builder::new()
        .prefix(".pinfold-move-")
        .tempdir_in(parent)
        .map_err(|error| failed("move to", parent, &error))?;
    let staged = staging.path().join("entry");
    copy::tree(source, &staged).map_err(|error| not_copied(&error))?;
    rename(&staged, destination).map_err(|error| refused(source, destination, &error))
}

/// Copies to the destination itself, which a bucket could not rename to. A copy that fails is taken away again.
fn copy_straight(source: &Path, destination: &Path) -> ApiResult<()> {
    let Err(error) = copy::tree(source, destination) else { return Ok(()) };
    if !error.made {
        return Err(refused(source, destination, &error.source));
    }
    if let Err(error) = take_away(destination) {
        tracing::warn!(%error, path = %destination.display(), "a part of what could not be moved stays");
    }
    Err(not_copied(&error))
}

fn not_copied(error: &CopyError) -> ApiError {
    let (path, reason) = (error.path.display(), reason(&error.source));
    ApiError::bad_request(format_args!("move: copying {path}: {reason}"))
}

/// Deletes what was copied; what cannot be deleted is told.
fn remove(source: &Path, destination: &Path) -> Option<MoveWarning> {
    take_away(source).err().map(|error| MoveWarning {
        message: format!("copied to {}, but the source could not be removed", destination.display()),
        error: format!("{}: {}", reason(&error), source.display()),
    })
}

fn take_away(path: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
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
