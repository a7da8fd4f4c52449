//! Build logs: streamed from the runner to the client as they come (control-plane contract 13.4).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, header};
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::control::sandbox::Url;

use super::auth::User;
use crate::core::Core;
use crate::edge::logs;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox/{id}/build-logs-url", get(sandbox_url))
        .route("/sandbox/{id}/build-logs", get(sandbox_logs))
        .route("/snapshots/{id}/build-logs-url", get(snapshot_url))
        .route("/snapshots/{id}/build-logs", get(snapshot_logs))
}

async fn sandbox_url(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> ApiResult<Json<Url>> {
    let id = core.directory.get(&id)?.record().id.clone();
    Ok(Json(Url { url: format!("{}/api/sandbox/{id}/build-logs", core.base_url(Some(&headers))) }))
}

async fn snapshot_url(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> ApiResult<Json<Url>> {
    let snapshot =
        core.snapshots.find(&id).ok_or_else(|| ApiError::not_found(format_args!("no snapshot {id}")))?;
    Ok(Json(Url {
        url: format!("{}/api/snapshots/{}/build-logs", core.base_url(Some(&headers)), snapshot.id),
    }))
}

async fn sandbox_logs(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let handle = core.directory.get(&id)?;
    if handle.record().build_ref.is_none() {
        return Err(ApiError::not_found("this sandbox was not made from a build, so it has no build log"));
    }
    let source = logs::Source::of_sandbox(handle);
    Ok(stream(logs::stream(core, source, query.flag("follow"))))
}

async fn snapshot_logs(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let snapshot =
        core.snapshots.find(&id).ok_or_else(|| ApiError::not_found(format_args!("no snapshot {id}")))?;
    let source = logs::Source::of_snapshot(snapshot.id);
    Ok(stream(logs::stream(core, source, query.flag("follow"))))
}

fn stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-cache")], body)
        .into_response()
}
