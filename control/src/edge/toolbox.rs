//! The toolbox by path: `/toolbox/<id>/…`, and the older `/api/toolbox/<id>/toolbox/…`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::well_known::TOOLBOX_PORT;

use super::admission::{admit, without_key};
use super::forward::{proxy_error, to_sandbox};
use super::signed_file;
use crate::api::{Caller, bearer};
use crate::core::Core;

pub(super) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/toolbox/{id}", any(direct))
        .route("/toolbox/{id}/{*path}", any(direct_path))
        .route("/api/toolbox/{id}/toolbox/{*path}", any(older))
        .with_state(core.clone())
}

async fn direct(
    State(core): State<Arc<Core>>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    pass(&core, &id, request, 2).await
}

async fn direct_path(
    State(core): State<Arc<Core>>,
    Path((id, _path)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Response> {
    pass(&core, &id, request, 2).await
}

async fn older(
    State(core): State<Arc<Core>>,
    Path((id, _path)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Response> {
    pass(&core, &id, request, 4).await
}

/// Passes on what follows the first `skip` parts of the path, byte for byte.
async fn pass(core: &Arc<Core>, id: &str, request: Request, skip: usize) -> ApiResult<Response> {
    let unauthorized = || {
        proxy_error(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "an API key or the sandbox's preview token is required",
        ))
    };
    let known = core.directory.find(id);
    let Some(handle) = known else {
        // Whoever has no key learns nothing of which sandboxes there are.
        return match bearer(request.headers()).and_then(|key| Caller::of(core, key)) {
            Some(Caller::User(_)) => Err(proxy_error(ApiError::not_found(format_args!("no sandbox {id}")))),
            _ => Err(unauthorized()),
        };
    };
    let record = handle.record();
    let rest = without_key(request.uri());
    let rest = after_parts(&rest, skip).to_owned();
    let admitted = admit(core, &record, TOOLBOX_PORT, request.headers(), request.uri());
    let signed = signed_file::admits(record.signing_key.as_deref(), request.method(), &rest, request.uri());
    if admitted.is_none() && !signed {
        return Err(unauthorized());
    }
    to_sandbox(core, &handle, request, &rest).await
}

/// What follows the first `skip` parts of a path, with its slash.
fn after_parts(path: &str, skip: usize) -> &str {
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    slashes.nth(skip).map_or("/", |at| &path[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_is_untouched() {
        assert_eq!(after_parts("/toolbox/id/files/a%2Fb?x=/", 2), "/files/a%2Fb?x=/");
        assert_eq!(after_parts("/toolbox/id//files", 2), "//files");
        assert_eq!(after_parts("/toolbox/id", 2), "/");
        assert_eq!(after_parts("/api/toolbox/id/toolbox/process/execute", 4), "/process/execute");
    }
}
