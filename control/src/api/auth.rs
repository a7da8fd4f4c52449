//! Who calls: extractors that refuse everyone else.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use pinfold_http::ApiError;

use crate::core::Core;
use crate::store::keys::Key;

/// The credential of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim()).filter(|c| !c.is_empty())
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A user, by an API key.
    User(Key),
    /// A runner, by its token.
    Runner(String),
}

impl Caller {
    /// The caller with this credential.
    pub(crate) fn of(core: &Core, credential: &str) -> Option<Self> {
        let user = core.keys.authenticate(credential).map(Self::User);
        user.or_else(|| core.runners.authenticate(credential).map(Self::Runner))
    }

    fn from_headers(core: &Core, headers: &HeaderMap) -> Result<Self, ApiError> {
        let unauthorized = |why| ApiError::new(StatusCode::UNAUTHORIZED, why);
        let credential = bearer(headers)
            .ok_or_else(|| unauthorized("an API key is required: send it as Authorization: Bearer <key>"))?;
        Self::of(core, credential).ok_or_else(|| unauthorized("the API key is not valid"))
    }
}

/// A user's API key.
#[derive(Debug)]
pub(super) struct User(pub(super) Key);

impl User {
    /// 403 unless the key has a permission.
    pub(super) fn may(&self, permission: &str) -> Result<(), ApiError> {
        if self.0.permissions.iter().any(|p| p == permission) {
            return Ok(());
        }
        let name = &self.0.name;
        let message = format!("the API key {name:?} does not have the permission {permission}");
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }
}

impl FromRequestParts<Arc<Core>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, ApiError> {
        match Caller::from_headers(core, &parts.headers)? {
            Caller::User(key) => Ok(Self(key)),
            Caller::Runner(_) => Err(ApiError::new(StatusCode::FORBIDDEN, "this route is not for runners")),
        }
    }
}

/// A runner's id.
#[derive(Debug)]
pub(super) struct Runner(pub(super) String);

impl FromRequestParts<Arc<Core>> for Runner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, ApiError> {
        match Caller::from_headers(core, &parts.headers)? {
            Caller::Runner(id) => Ok(Self(id)),
            Caller::User(_) => Err(ApiError::new(StatusCode::FORBIDDEN, "this route is for runners only")),
        }
    }
}
