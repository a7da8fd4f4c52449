//! `POST /files/permissions`.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use axum::extract::State;
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_spawn::{Sandbox, users};

use crate::error::{DENIED, INVALID_PATH, Kind, failed, kind, reason};
use crate::{blocking, mode};

/// The bits that changing the owner clears.
const SET_ID: u32 = 0o6000;

/// Changes mode, owner and group; what is not named stays. Links are followed.
pub(crate) async fn set(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<StatusCode> {
    let path = sandbox.resolve(query.required("path")?);
    let text = |key: &str| query.get(key).filter(|v| !v.is_empty()).map(str::to_owned);
    let (mode, owner, group) = (text("mode"), text("owner"), text("group"));
    blocking(move || {
        std::fs::metadata(&path).map_err(|error| failed("stat", &path, &error))?;
        // Everything is understood before anything is changed.
        let mode = mode.as_deref().map(mode::parse).transpose()?;
        let owner = owner.as_deref().map(uid).transpose()?;
        let group = group.as_deref().map(gid).transpose()?;
        apply(&path, mode, owner, group)
    })
    .await?;
    Ok(StatusCode::OK)
}

fn apply(path: &Path, mode: Option<u32>, owner: Option<u32>, group: Option<u32>) -> ApiResult<()> {
    let chmod = |mode| {
        let changed = std::fs::set_permissions(path, Permissions::from_mode(mode));
        changed.map_err(|error| refused("change mode", path, &error))
    };
    mode.map(chmod).transpose()?;
    if owner.is_some() || group.is_some() {
        chown(path, owner, group).map_err(|error| refused("change owner", path, &error))?;
        mode.filter(|mode| mode & SET_ID != 0).map(chmod).transpose()?;
    }
    Ok(())
}

fn uid(text: &str) -> ApiResult<u32> {
    let uid = users::by_name(text).map(|user| user.uid).or_else(|| text.parse().ok());
    uid.ok_or_else(|| ApiError::bad_request(format_args!("unknown user {text:?}")))
}

fn gid(text: &str) -> ApiResult<u32> {
    let gid = users::gid_by_name(text).or_else(|| text.parse().ok());
    gid.ok_or_else(|| ApiError::bad_request(format_args!("unknown group {text:?}")))
}

/// The contract answers 400 when the system refuses a change of a file that could be looked at.
fn refused(step: &str, path: &Path, error: &std::io::Error) -> ApiError {
    let answer = ApiError::bad_request(format_args!("{step}: {}: {}", reason(error), path.display()));
    match kind(error) {
        Kind::Denied => answer.code(DENIED),
        Kind::Path => answer.code(INVALID_PATH),
        _ => answer,
    }
}
