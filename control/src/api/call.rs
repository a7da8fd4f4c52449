//! The shape that calls about one sandbox share: who calls, which sandbox, change it, answer with what was committed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, RawPathParams};
use http::HeaderMap;
use http::request::Parts;
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::control::sandbox::Sandbox;

use super::auth::User;
use super::dto;
use crate::core::Core;
use crate::sandbox::Handle;
use crate::store::sandboxes::Record;

/// What a call about one sandbox is answered with.
pub(super) type Answer = ApiResult<Json<Sandbox>>;

/// A user's call about the sandbox that the path names by id or name.
pub(super) struct Call {
    pub(super) core: Arc<Core>,
    pub(super) user: User,
    pub(super) headers: HeaderMap,
    pub(super) handle: Handle,
}

impl FromRequestParts<Arc<Core>> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, ApiError> {
        let user = User::from_request_parts(parts, core).await?;
        let params = RawPathParams::from_request_parts(parts, core).await;
        let params = params.map_err(|error| ApiError::bad_request(error.body_text()))?;
        let id = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, id)| id);
        let handle = core.directory.get(id)?;
        Ok(Self { core: core.clone(), user, headers: parts.headers.clone(), handle })
    }
}

impl Call {
    /// Changes the record, for callers that have `permission`.
    pub(super) async fn change(
        &self,
        permission: &str,
        change: impl FnOnce(&mut Record) -> ApiResult<()> + Send + 'static,
    ) -> ApiResult<Arc<Record>> {
        self.user.may(permission)?;
        self.handle.change(change).await
    }

    /// [`Call::change`], answered at once.
    pub(super) async fn apply(
        self,
        permission: &str,
        change: impl FnOnce(&mut Record) -> ApiResult<()> + Send + 'static,
    ) -> Answer {
        let record = self.change(permission, change).await?;
        Ok(self.answer(&record))
    }

    /// A record as this caller reads it.
    pub(super) fn answer(&self, record: &Record) -> Json<Sandbox> {
        Json(dto(&self.core, &self.handle, record, &self.headers))
    }

    /// The sandbox as it is now.
    pub(super) fn answer_now(&self) -> Json<Sandbox> {
        self.answer(&self.handle.record())
    }
}
